# fish completion for cairn. `cairn complete` prints the words, with a description of each.

function __cairn_complete
	set -l words (commandline -opc)
	set -l current (commandline -ct)
	set -l lines (cairn complete -- $words[2..-1] "$current" 2>/dev/null)

	if test "$lines[1]" = :files
		__fish_complete_path "$current"
	else
		printf '%s\n' $lines
	end
end

complete -c cairn -f -a '(__cairn_complete)'
