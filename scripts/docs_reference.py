"""MkDocs hook that writes the generated pages: command line, parameters, changelog, notebook."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from clipbert.cli.main import app
from clipbert.config.help import explain_one
from clipbert.config.schema import Params

PROJECT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    pages = {"cli.md": command_line(), "parameters.md": parameters(), "changelog.md": changelog}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}", content=text))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = notebook(Path(file.abs_src_path or "").read_text(encoding="utf-8"))
        page += f"\n[Download this notebook]({Path(file.src_uri).name})\n"
        files.append(File.generated(config, file.src_uri.replace(".ipynb", ".md"), content=page))
    return files


def command_line() -> str:
    """Return the reference page of every verb of `clipbert`, from its help."""
    lines = ["# Command line", ""]
    group = typer.main.get_command(app)
    lines += [str(group.help), "", *_verbs(group, "clipbert")]
    return "\n".join(lines) + "\n"


def _verbs(group: Any, name: str) -> Iterator[str]:
    context = typer.Context(group, info_name=name)
    for verb in sorted(group.list_commands(context)):
        command = group.get_command(context, verb)
        full = f"{name} {verb}"
        yield from (f"## {full}", "", str(command.help or "").strip(), "")
        if hasattr(command, "list_commands"):
            yield from (line.replace("## ", "### ", 1) for line in _verbs(command, full))
            continue
        usage = " ".join(command.collect_usage_pieces(typer.Context(command, info_name=full)))
        yield from ("```console", f"$ {full} {usage}".rstrip(), "```", "")
        if command.epilog:
            yield from (command.epilog.strip(), "")
        rows = [row for parameter in command.params if (row := _option(parameter))]
        if rows:
            yield from ("| argument or option | default | meaning |", "|---|---|---|", *rows, "")


def _option(parameter: Any) -> str:
    """Return the table row of one argument or option."""
    names = parameter.opts + parameter.secondary_opts if parameter.param_type_name == "option" else []
    shown = ", ".join(f"`{name}`" for name in names) or f"`{parameter.metavar or parameter.name.upper()}`"
    default = parameter.default
    plain = default is None or callable(default) or default is False or default == ()
    return f"| {shown} | {'' if plain else f'`{default}`'} | {_cell(parameter.help or '')} |"


def parameters() -> str:
    """Return the reference page of every parameter of params.yaml, from the schema and dvc.yaml."""
    defaults = Params()
    lines = [
        "# Parameters",
        "",
        "Every parameter of `params.yaml`. `clipbert params NAME` explains one in the terminal, with its current "
        "value; `--set NAME=VALUE` replaces it for one command. *Read by* names the stages of `dvc.yaml` that run "
        "again when the parameter changes.",
        "",
    ]
    section = None
    for name in defaults.flat():
        above = name.rpartition(".")[0]
        if above != section:
            section = above
            lines += ["", f"## {above or 'Top level'}", "", _section_text(above), ""]
            lines += ["| parameter | default | allowed | meaning | read by |", "|---|---|---|---|---|"]
        about = dict(explain_one(defaults, name, PROJECT))
        default = about["default"].replace("\n", " ")
        lines.append(
            f'| <a id="{name}"></a>`{name}` | `{default}` | {_cell(about["allowed"])} | {_cell(about["meaning"])} '
            f"| {_cell(about['read by'])} |"
        )
    return "\n".join(lines) + "\n"


def _section_text(path: str) -> str:
    """Return the docstring of the section at a dotted path."""
    section: Any = Params()
    for name in filter(None, path.split(".")):
        fields = type(section).model_fields
        section = getattr(section, next(key for key, field in fields.items() if (field.alias or key) == name))
    return " ".join((type(section).__doc__ or "").split())


def _cell(text: str) -> str:
    # Braces would be read as HTML attributes (attr_list).
    for character, replacement in (("|", "\\|"), ("<", "&lt;"), ("[", "\\["), ("{", "&#123;")):
        text = text.replace(character, replacement)
    return " ".join(text.split())


def notebook(text: str) -> str:
    """Return a notebook as Markdown: its text, its code and its text outputs."""
    lines: list[str] = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [source, ""]
            continue
        lines += ["```python", source, "```", ""]
        for output in cell["outputs"]:
            shown = output.get("text") or output.get("data", {}).get("text/plain", [])
            if shown:
                lines += ["```text", "".join(shown).rstrip(), "```", ""]
    return "\n".join(lines) + "\n"
