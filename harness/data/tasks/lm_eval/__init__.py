"""lm-eval's tasks by name: any that is a YAML about text, with its data from the hub or a mirror.

Our ``test`` is what lm-eval itself scores, its test split or else its validation split; ``train`` is its training
split; ``validation`` its validation split, or else some rows taken out of ``train``, so that tuning never sees the
test items.  Rows are kept as the data set has them: lm-eval applies ``process_docs`` by itself.
"""
