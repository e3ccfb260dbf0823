"""Write the HTML template of `dvc plots show` with Vega embedded, so that the page works offline.

.dvc/config.local, which belongs to this clone only, names the template. Without this script, `dvc plots show` uses
DVC's own template, which loads Vega from the network.
"""

import configparser
from pathlib import Path

import vl_convert

# The Vega-Lite version of DVC's templates.
VEGA_LITE = "5.20"

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>ClipBERT plots</title>
<script>(function(){@bundle@})();</script>
<style>
  body { margin: 0; padding: 24px; background: #f5f6f9; color: #1c2330;
    font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
  body > div { display: inline-block; margin: 0 16px 16px 0; padding: 16px; background: #fff; border: 1px solid #e3e6ec;
    border-radius: 10px; vertical-align: top; }
  table { border-spacing: 15px; }
</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def main() -> None:
    """Write the template and set it in .dvc/config.local."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    path = Path(__file__).parents[1] / ".dvc" / "tmp" / "plots_page.html"
    path.parent.mkdir(exist_ok=True)
    path.write_text(PAGE.replace("@bundle@", bundle), encoding="utf-8")
    name_page(path.parents[1] / "config.local")


def name_page(config: Path) -> None:
    """Set plots.html_template in a DVC configuration file and keep its other sections."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(config, encoding="utf-8")
    if not parser.has_section("plots"):
        parser.add_section("plots")
    parser.set("plots", "html_template", "tmp/plots_page.html")
    with config.open("w", encoding="utf-8") as file:
        parser.write(file)


if __name__ == "__main__":
    main()
