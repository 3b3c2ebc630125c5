"""`cove completion`: the script that teaches a shell to complete `cove` command lines.

shell ── cove completion words ⟨the words typed so far⟩ ──▶ one candidate a line, a tab, what it means
"""

from __future__ import annotations

from cove.cli.flags import Call, UsageError, Verb

_BASH = """\
_cove() {
    local line words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    local IFS=$'\\n'
    COMPREPLY=()
    for line in $(cove completion words "${words[@]}" 2>/dev/null); do
        COMPREPLY+=("${line%%$'\\t'*}")
    done
    type __ltrimcolon_completions >/dev/null 2>&1 && __ltrimcolon_completions "$2"
}
complete -o default -F _cove cove
"""
_ZSH = """\
#compdef cove
_cove() {
    local line
    local -a found
    for line in ${(f)"$(cove completion words "${(@)words[2,CURRENT]}" 2>/dev/null)"}; do
        found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done
    if (( $#found )); then _describe cove found; else _files; fi
}
if [ "$funcstack[1]" = _cove ]; then _cove "$@"; else compdef _cove cove; fi
"""
_FISH = """\
function __cove_complete
    set -l words (commandline -opc) (commandline -ct)
    cove completion words $words[2..-1] 2>/dev/null
end
complete -c cove -a '(__cove_complete)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def run(call: Call) -> int:
    shell, *words = call.arguments or ("",)
    if shell == "words":
        from cove.cli.completion import complete

        for word, meaning in complete(words):
            print(f"{word}\t{meaning}")
        return 0
    if shell in ("--help", "-h", ""):
        from cove.cli.help import show

        return show(["completion"])
    if shell not in _SCRIPTS or words:
        raise UsageError(f"completion is there for {', '.join(_SCRIPTS)}; try: source <(cove completion bash)")
    print(_SCRIPTS[shell], end="")
    return 0


COMPLETION = Verb(
    run,
    "Print the script that completes cove's command lines in a shell.",
    "bash|zsh|fish",
    least=0,
    most=None,
    verbatim=True,
    notes="""
  bash  source <(cove completion bash)
  zsh   cove completion zsh > "${fpath[1]}/_cove"
  fish  cove completion fish > ~/.config/fish/completions/cove.fish
""",
)
