# bash completion for cairn. Verbs, options and their words come from `cairn help`, names from the daemon: of
# VMs those in a state in which the verb is possible.

# What a word that is typed stands for. Not by eval: it may hold anything.
_cairn_plain()
{
	printf '%s' "${1//[\\\"\']/}"
}

# The lines of standard input that go on as $cur does, as the shell reads them. Not by compgen -W, which expands its
# words: names are others' choice, and one may be $(anything).
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
	compopt -o filenames 2>/dev/null # quoted, and a folder with its slash
	mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}

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
			connect=(-c "$(_cairn_plain "${COMP_WORDS[i + 1]}")")
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
		# The second positional is something else than a VM.
		if [[ ${pos[0]} ]]; then
			if [[ $kind == vm-file ]]; then
				_cairn_files
			elif [[ $kind == vm-disk && ${pos[1]} ]]; then
				_cairn_files # a medium
			elif [[ $kind == vm-disk ]]; then
				_cairn_names < <(cairn "${connect[@]}" domblklist --inactive -- "${pos[0]}" 2>/dev/null | sed '1,2d' | awk 'NF { print $1 }')
			elif [[ $kind != vm-name && ! ${pos[1]} ]]; then
				_cairn_snapshots
			fi
			return
		fi
		;;&
	vm | vm-*)
		_cairn_vms
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
