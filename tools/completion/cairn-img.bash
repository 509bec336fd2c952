# bash completion for cairn-img. `cairn-img help` gives verbs and options.

_cairn_img()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]} words=''

	COMPREPLY=()
	# The shell splits --output=json into three words.
	[[ $cur == = ]] && cur='' || [[ $prev != = ]] || prev=${COMP_WORDS[COMP_CWORD - 2]}
	if ((COMP_CWORD == 1)) || [[ $verb == help ]]; then
		words="help $(cairn-img help 2>/dev/null | sed -n 's/^  \([a-z-]*\)  *[a-z].*/\1/p')"
		((COMP_CWORD > 2)) && words=''
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
		return
	fi
	case $verb$prev in
	*-f | *-F | *-O) words='raw qcow2' ;;
	*--output) words='human json' ;;
	*--format) words='json' ;;
	*--preallocation) words='off metadata falloc full' ;;
	check-r) words='leaks all' ;;
	create-o | convert-o | measure-o | amend-o)
		compopt -o nospace 2>/dev/null
		words=$(cairn-img create -f qcow2 -o help 2>/dev/null | sed -n 's/^  \([a-z_0-9]*=\).*/\1/p')
		;;
	*)
		if [[ $cur == -* ]]; then
			words=$(cairn-img help "$verb" 2>/dev/null | sed -n 's/^  \(-[^ =]*\).*/\1/p')
		else
			compopt -o filenames 2>/dev/null # quote names, and add a slash to folders
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return
		fi
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _cairn_img cairn-img
