"""The look of the report: one style sheet, scoped to the report so that it leaves a notebook alone.

Colours are those of Okabe and Ito (*Color universal design*, 2008), told apart by readers with any colour vision; shape or
dashes and a direct label say the same again. Layout follows the width of the report itself (container queries), so it
fits a notebook's cell as well as a phone.
"""

DASHES = ("none", "7 4", "2 4", "9 3 2 3", "14 4", "4 2", "1 5")
SERIES = 7

CSS = """
.fpa{--bg:#fff;--ink:#1b1f24;--muted:#57606a;--rule:#d0d7de;--card:#f6f8fa;--good:#009e73;--bad:#d55e00;--open:#6e7781;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b07600;--c4:#a34f7f;--c5:#2b8ac4;--c6:#1b1f24;
color-scheme:light dark;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;container-type:inline-size;text-align:left;overflow-wrap:anywhere}
@media (prefers-color-scheme:dark){.fpa{--bg:#14171b;--ink:#e8ebef;--muted:#a2abb5;--rule:#3a424b;--card:#1d2228;
--good:#2fc79a;--bad:#ff8a3d;--open:#9aa4ae;--c0:#56b4e9;--c1:#ff8a3d;--c2:#2fc79a;--c3:#e69f00;--c4:#e39ac0;--c5:#f0e442;
--c6:#e8ebef}}
.fpa *{box-sizing:border-box}
.fpa .inner{max-width:1240px;margin:0 auto;padding:24px 20px 40px}
.fpa h1{font-size:1.6rem;line-height:1.25;margin:0 0 4px;color:inherit}
.fpa h2{font-size:1.15rem;margin:36px 0 4px;padding-top:14px;border-top:1px solid var(--rule);color:inherit}
.fpa h3{font-size:1rem;margin:0 0 8px;color:inherit}
.fpa p{margin:0 0 10px;max-width:78ch}
.fpa .muted,.fpa small{color:var(--muted)}
.fpa small{font-size:.82em}
.fpa .cards,.fpa .panels{display:grid;gap:14px 18px;grid-template-columns:repeat(auto-fit,minmax(min(100%,28rem),1fr))}
.fpa .card,.fpa .panel{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:14px 16px;
min-width:0;container-type:inline-size}
.fpa .card{border-left:5px solid var(--open)}
.fpa .card.met{border-left-color:var(--good)}
.fpa .card.violated,.fpa .alert{border-left-color:var(--bad)}
.fpa .card p{margin:8px 0 0;font-size:.92rem}
.fpa .pill{display:inline-block;border:1.5px solid var(--open);border-radius:99px;padding:0 10px;font-weight:600;
font-size:.88rem;white-space:nowrap}
.fpa .met .pill{border-color:var(--good)}
.fpa .violated .pill{border-color:var(--bad)}
.fpa .head{display:flex;flex-wrap:wrap;gap:4px 12px;align-items:baseline;justify-content:space-between}
.fpa .head h3{margin:0}
.fpa ul.notes{margin:8px 0 0;padding-left:1.2em;max-width:90ch}
.fpa .row{display:grid;grid-template-columns:var(--name,9rem) minmax(0,1fr) 8.2rem;column-gap:12px;align-items:center;
min-height:27px}
.fpa .row+.row:not(.axis){border-top:1px solid color-mix(in srgb,var(--rule) 45%,transparent)}
.fpa .row.all .who{font-style:italic}
.fpa .who{font-size:.86rem;line-height:1.25;padding:3px 0}
.fpa .num{font-size:.86rem;line-height:1.2;text-align:right;font-variant-numeric:tabular-nums}
.fpa .num small{display:block}
.fpa svg{display:block;overflow:visible;width:100%}
.fpa svg svg{width:auto}
.fpa .track{height:24px}
.fpa .axis .track{height:18px}
.fpa svg text{font-size:12px;fill:var(--muted);font-variant-numeric:tabular-nums}
.fpa svg text.key{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:3px}
.fpa .leader{stroke:currentColor;stroke-width:1}
.fpa .grid{stroke:var(--rule);stroke-width:1}
.fpa .zero{stroke:var(--muted);stroke-width:1.5}
.fpa .limit{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:4 3}
.fpa .band{stroke-width:5;stroke-linecap:butt;opacity:.38}
.fpa .line{fill:none;stroke-width:2;stroke-linejoin:round}
.fpa .mark{stroke:var(--card);stroke-width:1}
.fpa .before{fill:var(--card);stroke:currentColor;stroke-width:1.6}
.fpa .t0{color:var(--c0)}.fpa .t1{color:var(--c1)}.fpa .t2{color:var(--c2)}.fpa .t3{color:var(--c3)}.fpa .t4{color:var(--c4)}
.fpa .t5{color:var(--c5)}.fpa .t6{color:var(--c6)}.fpa .gain{color:var(--c0)}.fpa .loss{color:var(--bad)}
.fpa .same{color:var(--open)}.fpa .tone{color:var(--open)}
.fpa .met .tone{color:var(--good)}.fpa .violated .tone{color:var(--bad)}
.fpa .band,.fpa .line{stroke:currentColor}.fpa .mark{fill:currentColor}
.fpa .plot{display:grid;grid-template-columns:3.4rem minmax(0,1fr) 12.5rem;column-gap:10px;padding-top:8px}
.fpa .plot.alone{grid-template-columns:3.4rem minmax(0,1fr)}
.fpa .ends{position:relative;font-size:.84rem;line-height:1.2}
.fpa .end{position:absolute;left:0;right:0;transform:translateY(-50%)}
.fpa .end b{color:var(--ink);font-weight:500}
.fpa .end i{display:none;width:26px;margin-right:7px;flex:none}
.fpa .legend{display:flex;flex-wrap:wrap;gap:2px 20px;margin:6px 0 12px;font-size:.88rem;color:var(--muted)}
.fpa .legend span{display:inline-flex;align-items:center;gap:7px}
.fpa .legend svg{width:26px;height:14px;flex:none}
.fpa .scroll{overflow-x:auto}
.fpa table{border-collapse:collapse;width:100%;font-size:.86rem;margin:8px 0 4px;color:inherit}
.fpa th,.fpa td{padding:6px 9px;text-align:right;vertical-align:top;border-bottom:1px solid var(--rule);
font-variant-numeric:tabular-nums;background:none}
.fpa th{font-weight:600;color:var(--muted);vertical-align:bottom}
.fpa tr{background:none}
.fpa td:first-child,.fpa th:first-child{text-align:left;min-width:7rem;max-width:18rem}
.fpa td:first-child{font-weight:500}
.fpa td small{display:block;white-space:nowrap}
.fpa td .delta{display:block;white-space:nowrap;color:var(--ink)}
.fpa details>summary{cursor:pointer;font-weight:600;margin:10px 0}
@container (max-width:820px){
.fpa table,.fpa tbody,.fpa tr{display:block}
.fpa thead{display:none}
.fpa tr{border:1px solid var(--rule);border-radius:8px;margin:0 0 12px;padding:8px 12px;background:var(--card)}
.fpa td{display:grid;grid-template-columns:minmax(0,1fr) auto;column-gap:10px;border:0;padding:3px 0;text-align:right}
.fpa td::before{content:attr(data-label);color:var(--muted);text-align:left;grid-row:span 3}
.fpa td>*{grid-column:2}
.fpa td:first-child{display:block;max-width:none;font-weight:600;border-bottom:1px solid var(--rule);margin-bottom:4px}
.fpa td:first-child::before{content:none}
.fpa .inner{padding:16px 12px 32px}
}
@container (max-width:460px){
.fpa .row{grid-template-columns:minmax(0,1fr) 7.4rem;padding:3px 0}
.fpa .who{grid-column:1/-1;padding:2px 0 0}
.fpa .axis .who{display:none}
.fpa .plot{grid-template-columns:3.4rem minmax(0,1fr)}
.fpa .ends{grid-column:1/-1;position:static;display:grid;gap:5px;margin-top:8px;height:auto!important}
.fpa .end{position:static;transform:none;display:flex;align-items:center}
.fpa .end i{display:block}
}
"""
