"""The methods that the bench compares, one file each; every module here with a ``METHOD`` is in the registry.

``methods/`` of the folders in LORABENCH_PLUGINS (``--plugins DIR``) belongs to this package, too, so that a worker on
this machine finds a custom method under the same name.
"""

import os
from pathlib import Path

__path__ += [str(Path(d) / "methods") for d in os.environ.get("LORABENCH_PLUGINS", "").split(os.pathsep) if d]
