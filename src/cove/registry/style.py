"""How the pages look: one style sheet, light and dark."""

STYLE = """
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5d6b7a;--line:#e1e6eb;--back:#f7f9fb;--card:#fff;--accent:#0b6e75;
--linux:#c8860a;--windows:#2b6cb0}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#93a1b0;--line:#2a3440;--back:#11161c;--card:#19212a;
--accent:#4fc3c9;--linux:#e0a83a;--windows:#6aa9e9}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
header{background:var(--card);border-bottom:1px solid var(--line);padding:.9rem max(1.2rem,calc(50vw - 34rem))}
main{max-width:70.4rem;margin:0 auto;padding:1.6rem 1.2rem 4rem}
a{color:var(--accent);text-decoration:none}
a:hover{text-decoration:underline}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:.25rem}
.skip{position:absolute;left:1rem;top:-4rem;background:var(--card);padding:.4rem .8rem}
.skip:focus{top:.6rem}
.brand{font-weight:700;font-size:1.15rem;letter-spacing:-.01em}
.brand span{font-weight:400;color:var(--soft);margin-left:.4rem}
h1{font-size:1.6rem;margin:0;overflow-wrap:anywhere;letter-spacing:-.015em}
h2{font-size:1.15rem;margin:0;overflow-wrap:anywhere}
h3{font-size:1rem;margin:0}
.head{display:flex;gap:.8rem;align-items:baseline;flex-wrap:wrap;margin-bottom:1rem}
.head form{margin-left:auto}
.trail{margin:0 0 .3rem;font-size:.9rem;color:var(--soft)}
.tags{display:flex;flex-wrap:wrap;gap:.4rem;margin:0 0 1.2rem;padding:0;list-style:none}
.tags a{display:block;background:var(--card);border:1px solid var(--line);border-radius:1rem;padding:.1rem .7rem;
font-size:.9rem}
.head span{color:var(--soft);font-size:.9rem;margin-left:auto}
input{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);border-radius:.5rem;
padding:.35rem .7rem}
code,pre{font:.88em/1.5 ui-monospace,monospace}
code{color:var(--soft);overflow-wrap:anywhere}
pre{background:var(--back);border:1px solid var(--line);border-radius:.5rem;padding:.55rem .8rem;margin:0 0 1rem;
overflow-x:auto;user-select:all}
table{width:100%;border-collapse:collapse;background:var(--card);border:1px solid var(--line);border-radius:.7rem;
overflow:hidden}
th,td{text-align:left;padding:.6rem 1rem;border-bottom:1px solid var(--line)}
tbody tr:last-child td{border-bottom:0}
tbody tr:hover{background:var(--back)}
th{font-size:.8rem;color:var(--soft);font-weight:600}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td{overflow-wrap:anywhere}
.tag{background:var(--card);border:1px solid var(--line);border-radius:.7rem;padding:1.1rem 1.2rem;
margin-bottom:1.2rem}
.tag .head{margin-bottom:.7rem}
.variants{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(17rem,100%),1fr));gap:.9rem}
article{border:1px solid var(--line);border-top:3px solid var(--soft);border-radius:.5rem;padding:.8rem .9rem;
min-width:0}
article.linux{border-top-color:var(--linux)}
article.windows{border-top-color:var(--windows)}
.version{margin:0;color:var(--soft);font-size:.88rem}
dl{display:grid;gap:.15rem;margin:.6rem 0 .4rem}
dl div{display:grid;grid-template-columns:4.2rem 1fr;gap:.9rem;align-items:baseline}
article:only-child dl{display:flex;flex-wrap:wrap;gap:.3rem 2.2rem}
article:only-child dl div{grid-template-columns:auto 1fr;gap:.6rem}
dt{color:var(--soft);font-size:.88rem}
dd{margin:0;min-width:0}
details summary{cursor:pointer;color:var(--accent);font-size:.9rem}
ol{list-style:none;margin:.5rem 0 0;padding:0;font-size:.9rem}
ol li{display:grid;grid-template-columns:1fr auto;gap:0 .6rem;padding:.35rem 0;border-top:1px solid var(--line)}
ol b{font-weight:600;font-variant-numeric:tabular-nums;white-space:nowrap}
meter{grid-column:1/-1;width:100%;height:.35rem}
.step{grid-column:1/-1;color:var(--soft);font:.82em/1.4 ui-monospace,monospace;overflow-wrap:anywhere}
.note,.empty{color:var(--soft);font-size:.9rem}
.empty{padding:3rem 0;text-align:center}
.more{display:inline-block;border:1px solid var(--line);border-radius:.5rem;padding:.35rem .9rem;
background:var(--card)}
@media(max-width:32rem){main{padding-top:1.1rem}th,td{padding:.6rem .7rem}.late{display:none}.tag{padding:.9rem}
.head form,.head input{width:100%}}
@media print{header,form,.more{display:none}}
"""
