# bash completion for cairn. Verbs, options and their words come from `cairn help`, names from the daemon: of
# VMs those in a state in which the verb is possible.
_cairn()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb='' kind='' i
	local -a connect=() pos=() options=()

	COMPREPLY=()
	# --mode=a are three words to the shell.
	[[ $cur == = ]] && cur='' || [[ $prev != = ]] || prev=${COMP_WORDS[COMP_CWORD - 2]}
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-c | --connect)
			connect=(-c "${COMP_WORDS[i + 1]}")
			((i++))
			;;
		-*)
			# Its value is no positional.
			if [[ " ${options[*]} " == *" ${COMP_WORDS[i]} VALUE "* ]]; then
				[[ ${COMP_WORDS[i + 1]} == = ]] && ((i++))
				((i++))
			fi
			;;
		=) ;;
		*)
			if [[ $verb ]]; then
				pos+=("${COMP_WORDS[i]}")
			else
				verb=${COMP_WORDS[i]}
				mapfile -t options < <(cairn help --options "$verb" 2>/dev/null)
			fi
			;;
		esac
	done
	case $prev in
	-c | --connect | --vm-program | --file)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--snapshotname | --from)
		mapfile -t COMPREPLY < <(compgen -W "$(cairn "${connect[@]}" snapshot-list --name "${pos[0]}" 2>/dev/null)" -- "$cur")
		return
		;;
	--can)
		mapfile -t COMPREPLY < <(compgen -W "$(cairn help --names | cut -d' ' -f1)" -- "$cur")
		return
		;;
	--domain | --vm)
		local IFS=$'\n'
		mapfile -t COMPREPLY < <(compgen -W "$(cairn "${connect[@]}" list --name --can "$verb" 2>/dev/null)" -- "$cur")
		return
		;;
	--*)
		kind=$(cairn help "$verb" --values "$prev" 2>/dev/null)
		if [[ $kind ]]; then
			mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$cur")
			return
		fi
		[[ " ${options[*]} " == *" $prev VALUE "* ]] && return
		;;
	esac
	if [[ ! $verb ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(cairn help --names | cut -d' ' -f1)" -- "$cur")
		return
	fi
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "${options[*]% VALUE}" -- "$cur")
		return
	fi
	kind=$(cairn help --names | sed -n "s/^$verb //p")
	case $kind in
	vm-*)
		# The second positional is something else than a VM.
		if [[ ${pos[0]} ]]; then
			local IFS=$'\n'
			if [[ $kind == vm-file ]]; then
				mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			elif [[ $kind == vm-disk && ${pos[1]} ]]; then
				mapfile -t COMPREPLY < <(compgen -f -- "$cur") # a medium
			elif [[ $kind == vm-disk ]]; then
				mapfile -t COMPREPLY < <(compgen -W "$(cairn "${connect[@]}" domblklist --inactive "${pos[0]}" 2>/dev/null | sed '1,2d' | awk '{ print $1 }')" -- "$cur")
			elif [[ $kind != vm-name && ! ${pos[1]} ]]; then
				mapfile -t COMPREPLY < <(compgen -W "$(cairn "${connect[@]}" snapshot-list --name "${pos[0]}" 2>/dev/null)" -- "$cur")
			fi
			return
		fi
		;;&
	vm | vm-*)
		# One name a line; names may have blanks.
		local IFS=$'\n'
		mapfile -t COMPREPLY < <(compgen -W "$(cairn "${connect[@]}" list --name --can "$verb" 2>/dev/null)" -- "$cur")
		;;
	job)
		mapfile -t COMPREPLY < <(compgen -W "$(cairn "${connect[@]}" jobs --format csv 2>/dev/null | tail -n +2 | cut -d, -f1)" -- "$cur")
		;;
	verb)
		mapfile -t COMPREPLY < <(compgen -W "$(cairn help --names | cut -d' ' -f1)" -- "$cur")
		;;
	file)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		;;
	esac
}
complete -F _cairn cairn
