#compdef cairn
# zsh completion for cairn. `cairn complete` prints the words, with a description of each.

_cairn()
{
	local line files ret=1
	local -a lines words_found shown suffix

	lines=("${(@f)$(cairn complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
	for line in $lines; do
		if [[ $line == :files ]]; then
			files=1
			continue
		fi
		words_found+=("${line%%$'\t'*}")
		shown+=("${line/$'\t'/  -- }")
	done
	[[ $words_found[1] == *: ]] && suffix=(-S '') # no space follows "VM:"
	compadd -l -d shown "$suffix[@]" -a words_found && ret=0
	if [[ -n $files ]]; then
		compset -P '--*='
		_files && ret=0
	fi
	return ret
}

_cairn "$@"
