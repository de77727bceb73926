"""Commands about config files: ``export`` writes them, ``verify`` reads them."""

from __future__ import annotations

from advisor.cli import groups
from advisor.cli.show import say, say_json
from advisor.core import options


def export(given: groups.Export, printed: groups.Json) -> None:
    """Write the config of a recommendation again, also in the formats of other tools."""
    from advisor import workflow
    from advisor.report.console import console_session

    out = options.out_of(given, given.recommendation)
    with console_session() as session:
        written = workflow.export_formats(given.recommendation, given.formats, out, session)
    if printed.as_json:
        say_json(
            {
                name: {"fidelity": rendered.fidelity, "reasons": rendered.reasons, "files": [str(path) for path in paths]}
                for name, (rendered, paths) in written.items()
            }
        )
        return
    for rendered, paths in written.values():
        for path in paths:
            say(f"{path}: {rendered.files[path.name].fidelity}")
        for reason in rendered.reasons:
            say(f"  {reason}")


def verify(given: groups.Verify, printed: groups.Json) -> int:
    """Check what a tool will really train with a config. Exit code 0: as intended; 1: surprises; 2: bad input."""
    from advisor.export.verify import verify as verify_config

    report = verify_config(
        given.config,
        given.model,
        task=given.task,
        format_name=given.format,
        revision=given.revision,
        trust_remote_code=given.trust_remote_code,
    )
    if printed.as_json:
        say_json(report.as_dict())
    else:
        for line in report.lines():
            say(line)
    return report.exit_code
