"""What the README shows runs, and prints what it says."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_first_example_runs_and_prints_what_it_says(capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out.splitlines()
    said = [line.partition("# ")[2] for line in code.splitlines() if line.startswith("print")]
    assert len(printed) == len(said) == 2
    for out, promise in zip(printed, said, strict=True):
        assert out.startswith(promise.removesuffix("..."))


def test_two_commands_do_the_setting_up():
    block = re.search(r"<!-- commands -->\n```bash\n(.*?)```", README, re.DOTALL).group(1)
    install_and_run, install_and_test = block.strip().splitlines()
    assert install_and_run.endswith("python examples/search_docstrings.py")
    assert install_and_test.endswith("python -m pytest")
