"""Let a model load where dpqlab is installed but was not imported: diffusers' ``auto_map``.

diffusers has no registry that packages can enter by being installed: a program must import
``dpqlab.diffusers`` before it loads a compressed model. Where nobody can add that line, the folder
can carry a file of four lines that does, and the user allows it with ``trust_remote_code``.
dpqlab's own loaders never run it, and refuse to load from a folder with a stray file in it.
"""

from __future__ import annotations

import json
from pathlib import Path

from dpqlab.checkpoint.atomic import replace_file
from dpqlab.checkpoint.documents import dump_json
from dpqlab.checkpoint.layout import MANIFEST
from dpqlab.errors import CheckpointError, ConfigError

MODULE = "modeling_dpqlab"
CONFIG_NAME = "config.json"


def add_remote_code(folder: str | Path) -> Path:
    """Add the file, and its mention in ``config.json``, to what ``save_pretrained`` wrote.

    Afterwards ``AutoModel.from_pretrained`` with ``trust_remote_code`` needs no import of
    dpqlab beforehand. All other ways to load the folder work as before.

    Parameters
    ----------
    folder
        Of a compressed model, where its ``config.json`` is.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    CheckpointError
        If the folder holds no model that dpqlab compressed.
    ConfigError
        If it belongs to a folder that dpqlab wrote whole, in which every file is accounted for.
    """
    folder = Path(folder)
    if (folder.parent / MANIFEST).is_file():
        raise ConfigError(
            f"{folder} is part of a folder whose manifest lists every file: load the model and "
            "save it elsewhere with save_pretrained, then add the code there"
        )
    name, config = _config_of(folder)
    code = folder / f"{MODULE}.py"
    text = (
        f'"""Loads this folder with trust_remote_code, where dpqlab is installed."""\n'
        f"import dpqlab.diffusers  # noqa: F401\n"
        f"from diffusers import {name}\n"
        f'__all__ = ["{name}"]\n'
    )
    replace_file(code, text.encode())
    # last: a config never names a file that is not there
    config["auto_map"] = {"AutoModel": f"{MODULE}.{name}"}
    replace_file(folder / CONFIG_NAME, dump_json(config))
    return code


def _config_of(folder: Path) -> tuple[str, dict[str, object]]:
    try:
        config = json.loads((folder / CONFIG_NAME).read_bytes())
        name, method = config["_class_name"], config["quantization_config"]["quant_method"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG_NAME} does not describe a compressed model ({error!r}): expected "
            "what save_pretrained wrote"
        ) from None
    if method != "dpqlab" or not isinstance(name, str) or not name.isidentifier():
        raise CheckpointError(
            f"{folder / CONFIG_NAME} names the class {name!r} and the method {method!r}: expected "
            "a model of diffusers that dpqlab compressed"
        )
    return name, config
