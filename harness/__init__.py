"""lorabench: which way of LoRA fine-tuning forgets least and learns fastest when tasks follow one another.

``harness.cli`` has the verbs, ``harness.study`` says what runs, ``harness.engine`` how a pack trains,
``harness.scoring`` asks lm-eval's questions, ``harness.analysis`` is pure maths, ``harness.store`` keeps records,
``harness.executors`` finds a place to run, and ``harness.report`` makes tables and figures.
"""
