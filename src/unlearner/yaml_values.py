"""Run files and `section.key=value` settings as plain values, without what YAML makes of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from unlearner.errors import UserError, quoted
from unlearner.files import read_small

RUN_FILE_BYTES = 2**20


class _Loader(yaml.SafeLoader):
    """YAML without what makes a short text long, or a plain value something else.

    An alias may stand for a list of aliases and so on: ten lines become more than any memory. A
    date stays text, and so does a number with more digits than Python reads.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - its base class has it as a class attribute
        first: [(tag, pattern) for tag, pattern in some if not tag.endswith(":timestamp")]
        for first, some in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, "an alias; write the value out", mark)
        return super().compose_node(parent, index)

    def number_or_text(self, node: Any) -> object:
        try:
            return self.construct_yaml_int(node)
        except ValueError:
            return self.construct_scalar(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.number_or_text)


def load_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: It is not YAML, nested too deep or has an alias; the message is one line.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a run file.

    Raises:
        UserError: It is missing, not YAML, or not a mapping of sections.
    """
    try:
        content = load_yaml(read_small(path, RUN_FILE_BYTES))
    except FileNotFoundError:
        raise UserError(f"{path}: no such run file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); give a run file") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML ({error})") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UserError(f"{path}: a run file is sections of keys, such as `method: {{name: icu}}`")
    return content


def apply_settings(sections: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """The sections with `section.key=value` settings laid over them.

    Raises:
        UserError: A setting is not of that form.
    """
    merged = {name: dict(section) for name, section in sections.items()}
    for setting in settings:
        name, equals, value = setting.partition("=")
        section, dot, key = name.partition(".")
        if not (equals and dot and section and key):
            raise UserError(
                f"{quoted(setting)} is not a setting; write section.key=value, "
                "for example method.learning_rate=1e-4"
            )
        values, (key, _, inner) = merged.setdefault(section, {}), key.partition(".")
        if inner:  # data.options.split=forget05: one value of a mapping
            given = values.get(key)
            values[key] = dict(given) if isinstance(given, dict) else {}
            values, key = values[key], inner
        values[key] = parse_value(value)
    return merged


def parse_value(text: str) -> object:
    """The value of a setting, read as YAML; what YAML would change beyond a value stays text.

    {prompt} is a mapping to it, a # begins a comment and 2024-05-01 is a date.
    """
    try:
        value = load_yaml(text)
    except ValueError:
        return text
    if isinstance(value, str):
        return value if text[0] in "'\"" else text
    if isinstance(value, dict):
        return text if None in value.values() else value
    known = isinstance(value, (str, bool, int, float, list)) or text in ("null", "~")
    return value if known else text
