# fish completion for cairn. `cairn complete` prints the words, with a description of each.

function __cairn_complete
	set -l words (commandline -opc)
	set -l current (commandline -ct)
	set -l option (string match -r -- '^--[^=]*=' "$current")

	for line in (cairn complete -- $words[2..-1] "$current" 2>/dev/null)
		if test "$line" = :files
			__fish_complete_path (string replace -- "$option" '' "$current") | string replace -r -- '^' "$option"
		else
			echo $line
		end
	end
end

complete -c cairn -f -a '(__cairn_complete)'
