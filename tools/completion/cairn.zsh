#compdef cairn
# zsh completion for cairn. `cairn complete` prints the words, with a description of each.

_cairn()
{
	local line
	local -a lines words_found shown

	lines=("${(@f)$(cairn complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
	for line in $lines; do
		if [[ $line == :files ]]; then
			_files
			return
		fi
		words_found+=("${line%%$'\t'*}")
		shown+=("${line/$'\t'/  -- }")
	done
	compadd -l -d shown -a words_found
}

_cairn "$@"
