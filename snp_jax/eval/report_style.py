"""The report's style sheet. Light and dark; on a phone, wide tables scroll inside their own box."""

STYLE = """
:root { --ink: #1d2430; --soft: #667085; --line: #e4e7ec; --page: #f6f7f9; --card: #ffffff; --blue:
  #3266ad; --green: #1f9d55; --red: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #323a47; --page:
  #14181f; --card: #1d232d; --blue: #6f9fe0; --green: #35c173; --red: #f0796b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 12px 0 4px; }
h2 { font-size: 1.25rem; margin: 0 0 4px; }
h3 { font-size: 1rem; margin: 20px 0 8px; }
header p, .note { color: var(--soft); }
header p { margin: 0 0 20px; }
.note { font-size: 0.85rem; margin: 4px 0 12px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px;
  margin-top: 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; }
.tile span, .tile small { display: block; color: var(--soft); font-size: 0.82rem; }
.tile strong { display: block; font-size: 2.1rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile strong i { font-style: normal; font-size: 1rem; color: var(--soft); margin-left: 2px; }
.reached { color: var(--green); }
.missed { color: var(--red); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
.wide > table { min-width: min(100%, 460px); }
th, td { padding: 6px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  }
th:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 600; font-size: 0.8rem; }
tbody th { font-weight: 500; }
tr.reference th, tr.reference td { color: var(--soft); }
img { display: block; max-width: 100%; border-radius: 6px; }
figure { margin: 0; }
.caption { font-size: 1.05rem; font-weight: 600; margin: 0; }
.query, .heat { padding: 16px 0 6px; border-top: 1px solid var(--line); }
.query .note, .heat .note { margin-bottom: 8px; }
.strip-list { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 10px; }
.video { border: 3px solid transparent; border-radius: 10px; padding: 3px; }
.video img { width: 100%; }
.video figcaption { display: flex; gap: 8px; font-size: 0.8rem; color: var(--soft); padding: 2px 4px 0; }
.video figcaption b { color: var(--ink); }
.video figcaption span { margin-left: auto; }
.right { border-color: var(--green); background: color-mix(in srgb, var(--green) 12%, transparent); }
.heat table { width: auto; }
.heat td, .heat th { padding: 2px; text-align: center; border: 0; font-size: 0.8rem; }
.heat th { padding-right: 10px; position: sticky; left: 0; background: var(--card); text-align: left; }
.heat td[style] { color: #1d2430; border-radius: 4px; min-width: 56px; padding: 6px 2px; }
.heat tr { border-bottom: 2px solid transparent; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap:
  16px; }
.charts figcaption { font-weight: 600; margin-bottom: 6px; }
.charts img { background: #ffffff; width: 100%; }
.seconds { width: 100%; }
.seconds .length { width: 100%; padding-left: 12px; }
.seconds .length div { height: 12px; border-radius: 6px; background: var(--blue); min-width: 2px; }
dl { display: grid; grid-template-columns: minmax(110px, max-content) 1fr; gap: 4px 16px; margin: 8px 0 0;
  font-size: 0.9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 520px) { main { padding: 12px 10px 40px; } section { padding: 14px; } h1 { font-size:
  1.5rem; } }
"""
