# Functions of scripts that fetch packages of the machine's own release into a folder; to be sourced. They install
# nothing, and any user may call them. The caller sets $work, the folder for lists and packages.
# shellcheck shell=sh

# Print the sources of the machine's release, made from its own: apt_sources deb|deb-src [SUFFIX-OF-ANOTHER-SUITE].
apt_sources() {
	. /etc/os-release
	key=/usr/share/keyrings/debian-archive-keyring.gpg
	[ ! -f $key ] || option="[signed-by=$key] "
	# shellcheck disable=SC2016 # apt's own variables
	apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
		awk -v suite="$VERSION_CODENAME" -v type="$1 ${option-}" -v other="${2-}" '
			$3 == "main" && index($2, suite) == 1 { print type $1, $2, $3 }
			$3 == "main" && $2 == suite && other { print type $1, suite other, $3 }' | sort -u
}

# Run an apt command with the lists and sources of $work. Few retries and short time limits, because without a network
# apt would try for minutes.
apt() { # COMMAND ARGUMENT...
	command=$1
	shift
	"$command" -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$work/lists" \
		-o Dir::Cache="$work" -o APT::Sandbox::User=root -o Debug::NoLocking=1 -o Acquire::Retries=1 \
		-o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15 "$@"
}
