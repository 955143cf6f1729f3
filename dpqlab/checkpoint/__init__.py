"""Save and load compressed models; nothing that a file says is believed before it is checked."""

from dpqlab.checkpoint.load import FolderConfig, is_compressed, load_compressed, read_config
from dpqlab.checkpoint.manifest import verify
from dpqlab.checkpoint.save import SavedFolder, save_compressed

__all__ = [
    "FolderConfig",
    "SavedFolder",
    "is_compressed",
    "load_compressed",
    "read_config",
    "save_compressed",
    "verify",
]
