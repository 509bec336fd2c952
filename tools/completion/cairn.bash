# bash completion for cairn. `cairn complete` prints the words.

# Remove the quoting of a typed word. Do not use eval: the word may contain anything.
_cairn_plain()
{
	printf '%s' "${1//[\\\"\']/}"
}

# Add a word, quoted for the shell, if it begins with $cur. Do not use compgen -W, which expands its words: other users choose
# the names, and a name may be $(anything).
_cairn_add()
{
	local word=$1 open=''

	[[ $cur == [\"\']* ]] && open=${cur:0:1}
	case $open in
	\") word=$(sed 's/[\\"$`]/\\&/g' <<<"$word") ;;
	\') word=${word//\'/\'\\\'\'} ;;
	*) printf -v word %q "$word" ;;
	esac
	[[ $word == "${cur#"$open"}"* ]] && COMPREPLY+=("$word")
}

_cairn()
{
	local cur=${COMP_WORDS[COMP_CWORD]} joined='' last='' line word i
	local -a words=()

	COMPREPLY=()
	for ((i = 1; i <= COMP_CWORD; i++)); do
		word=$(_cairn_plain "${COMP_WORDS[i]}")
		# The shell splits --mode=a into three words.
		if [[ $last == --* && $word == = ]]; then
			last+='='
			((i == COMP_CWORD)) && cur=''
		elif [[ $last == --*= && ${COMP_WORDS[i - 1]} == = ]]; then
			last+=$word
		else
			((i == 1)) || words+=("$last")
			last=$word
		fi
	done
	[[ $last == --*=* ]] && joined=${last%%=*}=
	while IFS= read -r line; do
		if [[ $line == :files ]]; then
			compopt -o filenames 2>/dev/null # quote names, and add a slash to folders
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return
		fi
		line=${line%%$'\t'*}
		_cairn_add "${line#"$joined"}"
	done < <(cairn complete -- "${words[@]}" "$last" 2>/dev/null)
}
complete -F _cairn cairn
