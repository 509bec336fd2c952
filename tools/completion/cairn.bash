# bash completion for cairn. `cairn help` gives verbs, options and their values; the daemon gives names. VMs in a state that
# the verb does not accept are left out.

# Remove the quoting of a typed word. Do not use eval: the word may contain anything.
_cairn_plain()
{
	printf '%s' "${1//[\\\"\']/}"
}

# Complete $cur by lines of standard input, quoted for the shell. Do not use compgen -W, which expands its words: other users
# choose the names, and a name may be $(anything).
_cairn_names()
{
	local name open=''

	[[ $cur == [\"\']* ]] && open=${cur:0:1}
	while IFS= read -r name; do
		[[ $name ]] || continue
		case $open in
		\") name=$(sed 's/[\\"$`]/\\&/g' <<<"$name") ;;
		\') name=${name//\'/\'\\\'\'} ;;
		*) printf -v name %q "$name" ;;
		esac
		[[ $name == "${cur#"$open"}"* ]] && COMPREPLY+=("$name")
	done
}

_cairn_snapshots()
{
	_cairn_names < <(cairn "${connect[@]}" snapshot-list --name -- "${pos[0]}" 2>/dev/null)
}

_cairn_vms()
{
	_cairn_names < <(cairn "${connect[@]}" list --name --can "$verb" 2>/dev/null)
}

_cairn_files()
{
	compopt -o filenames 2>/dev/null # quote names, and add a slash to folders
	mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}

_cairn()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb='' kind='' i
	local -a connect=() pos=() options=()

	COMPREPLY=()
	# The shell splits --mode=a into three words.
	[[ $cur == = ]] && cur='' || [[ $prev != = ]] || prev=${COMP_WORDS[COMP_CWORD - 2]}
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-c | --connect)
			connect=(-c "$(_cairn_plain "${COMP_WORDS[i + 1]}")")
			((i++))
			;;
		-*)
			# The value of an option is no positional.
			if [[ " ${options[*]} " == *" ${COMP_WORDS[i]} VALUE "* ]]; then
				[[ ${COMP_WORDS[i + 1]} == = ]] && ((i++))
				((i++))
			fi
			;;
		=) ;;
		*)
			if [[ $verb ]]; then
				pos+=("$(_cairn_plain "${COMP_WORDS[i]}")")
			else
				verb=${COMP_WORDS[i]}
				mapfile -t options < <(cairn help --options "$verb" 2>/dev/null)
			fi
			;;
		esac
	done
	case $prev in
	-c | --connect | --vm-program | --file)
		_cairn_files
		return
		;;
	--snapshotname | --from)
		_cairn_snapshots
		return
		;;
	--can)
		mapfile -t COMPREPLY < <(compgen -W "$(cairn help --names | cut -d' ' -f1)" -- "$cur")
		return
		;;
	--domain | --vm)
		_cairn_vms
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
		# The second positional is not a VM.
		if [[ ${pos[0]} ]]; then
			if [[ $kind == vm-file ]]; then
				_cairn_files
			elif [[ $kind == vm-measure || $kind == vm-threshold ]] && [[ ${pos[1]} ]]; then
				:
			elif [[ $kind == vm-measure ]]; then
				mapfile -t COMPREPLY < <(compgen -W "cpu memory disk-space latency io-errors net" -- "$cur")
			elif [[ $kind == vm-threshold ]]; then
				_cairn_names < <(cairn "${connect[@]}" threshold-list -- "${pos[0]}" 2>/dev/null | sed '1,2d' | awk 'NF { print $2 }')
			elif [[ $kind == vm-trend ]]; then
				mapfile -t COMPREPLY < <(compgen -W "cpu memory used balloon rd-bytes wr-bytes rd-reqs wr-reqs rd-latency wr-latency io-errors rx-bytes tx-bytes rx-packets tx-packets" -- "$cur")
			elif [[ $kind == vm-interface && ! ${pos[1]} ]]; then
				_cairn_names < <(cairn "${connect[@]}" domiflist --inactive -- "${pos[0]}" 2>/dev/null | sed '1,2d' | awk 'NF == 5 { print $1 }')
			elif [[ $kind == vm-interface ]]; then
				mapfile -t COMPREPLY < <(compgen -W "up down" -- "$cur")
			elif [[ $kind == vm-disk && ${pos[1]} ]]; then
				_cairn_files # the medium of a drive
			elif [[ $kind == vm-disk ]]; then
				_cairn_names < <(cairn "${connect[@]}" domblklist --inactive -- "${pos[0]}" 2>/dev/null | sed '1,2d' | awk 'NF { print $1 }')
			elif [[ $kind == vm-action || $kind == vm-schedule ]] && [[ ${pos[1]} ]]; then
				:
			elif [[ $kind == vm-action ]]; then
				mapfile -t COMPREPLY < <(compgen -W "start shutdown reboot suspend resume save snapshot export" -- "$cur")
			elif [[ $kind == vm-schedule ]]; then
				_cairn_names < <(cairn "${connect[@]}" schedule-list -- "${pos[0]}" 2>/dev/null | sed '1,2d' | awk 'NF { print $2 }')
			elif [[ $kind != vm-name && ! ${pos[1]} ]]; then
				_cairn_snapshots
			fi
			return
		fi
		;;&
	vm | vm-*)
		_cairn_vms
		;;
	pool)
		[[ ${pos[0]} ]] || _cairn_names < <(cairn "${connect[@]}" pool-list --name 2>/dev/null)
		;;
	vol)
		[[ ${pos[0]} ]] || _cairn_files
		;;
	net)
		[[ ${pos[0]} ]] && return
		case $verb in
		net-start) kind=--inactive ;;
		net-destroy) kind='' ;;
		*) kind=--all ;;
		esac
		_cairn_names < <(cairn "${connect[@]}" net-list --name $kind 2>/dev/null)
		;;
	job)
		_cairn_names < <(cairn "${connect[@]}" jobs --format csv 2>/dev/null | tail -n +2 | cut -d, -f1)
		;;
	verb)
		mapfile -t COMPREPLY < <(compgen -W "$(cairn help --names | cut -d' ' -f1)" -- "$cur")
		;;
	file)
		_cairn_files
		;;
	esac
}
complete -F _cairn cairn
