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
	local cur=${COMP_WORDS[COMP_CWORD]} rest=$COMP_LINE last='' kept files='' line i
	local -a words=()

	COMPREPLY=()
	[[ $cur == *[!:=@]* ]] || cur=''
	for ((i = 1; i <= COMP_CWORD; i++)); do
		rest=${rest#*"${COMP_WORDS[i - 1]}"}
		# The shell splits --mode=a, vm1:/etc and root@vm1 into three words, without blanks between them.
		if ((i > 1)) && [[ $rest == [![:space:]]* ]]; then
			last+=$(_cairn_plain "${COMP_WORDS[i]}")
		else
			((i == 1)) || words+=("$last")
			last=$(_cairn_plain "${COMP_WORDS[i]}")
		fi
	done
	kept=${last%"$(_cairn_plain "$cur")"} # Tab replaces only what the shell has split off
	while IFS= read -r line; do
		line=${line%%$'\t'*}
		if [[ $line == :files ]]; then
			files=1
		elif [[ $line == "$kept"* ]]; then
			_cairn_add "${line#"$kept"}"
		fi
	done < <(cairn complete -- "${words[@]}" "$last" 2>/dev/null)
	if [[ $files && ! ${COMPREPLY[*]} ]]; then
		compopt -o filenames 2>/dev/null # quote names, and add a slash to folders
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
	elif [[ $files ]]; then
		while IFS= read -r line; do
			[[ -d $line ]] && line+=/
			_cairn_add "$line"
		done < <(compgen -f -- "$cur")
	fi
	[[ ${#COMPREPLY[@]} == 1 && $COMPREPLY == *[:/] ]] && compopt -o nospace 2>/dev/null
}
complete -F _cairn cairn
