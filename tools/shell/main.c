/* cairn-shell: the interactive shell, with libedit's line editing, history and completion. cairn starts it when it is
 * called without a verb on a terminal, or as `cairn shell`. Each command is a process of its own, so no state of one
 * reaches the next.
 * Arguments: the path of cairn; the daemon's socket, or an empty word for cairn's own choice; perhaps --line and a line
 * to run in place of those of standard input; up to two options of cairn that each command gets. */
#include "tools/shell/complete.h"
#include "tools/shell/words.h"
#include "base/home.h"
#include "base/util.h"

#include <editline/readline.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HISTORY_LINES 1000
#define USAGE 2
#define OPTIONS_MAX 2

struct shell {
	const char *cairn, *socket;
	char **options; /* ends with NULL; borrowed */
	bool terminal; /* the commands may read standard input: no lines of the shell come there */
	bool quit;
	int status; /* of the last command */
	char history[PATH_MAX]; /* "": none */
};

/* ---- commands ---- */

static int folder_change(const struct words *w)
{
	const char *to = w->n > 1 ? w->list[1] : getenv("HOME");

	if (!to || chdir(to) < 0) {
		fprintf(stderr, "error: cd: %s: %s\n", to ? to : "HOME is not set", strerror(errno));
		return 1;
	}
	return 0;
}

static int folder_print(void)
{
	char path[PATH_MAX];

	if (!getcwd(path, sizeof(path))) {
		perror("error: pwd");
		return 1;
	}
	puts(path);
	return 0;
}

/* Run cairn with these words. SIGINT and SIGQUIT of the terminal end the command and not the shell. A command without a
 * terminal gets no input, which is the shell's next lines. */
static int cairn_run(const struct shell *s, const struct words *w)
{
	char *argv[WORDS_MAX + OPTIONS_MAX + 5] = { (char *)s->cairn }, **to = argv + 1;
	void (*old_int)(int) = signal(SIGINT, SIG_IGN), (*old_quit)(int) = signal(SIGQUIT, SIG_IGN);
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t defaults;
	int r, status = 0;
	pid_t pid;

	if (*s->socket) {
		*to++ = (char *)"--connect";
		*to++ = (char *)s->socket;
	}
	for (char **option = s->options; *option; option++)
		*to++ = *option;
	if (w->list[0][0] != '-')
		*to++ = (char *)"--"; /* cairn splits a lone word with blanks otherwise */
	memcpy(to, w->list, w->n * sizeof(*to));
	posix_spawn_file_actions_init(&files);
	if (!s->terminal)
		posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawnattr_init(&attr);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGINT);
	sigaddset(&defaults, SIGQUIT);
	posix_spawnattr_setsigdefault(&attr, &defaults);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
	r = posix_spawn(&pid, s->cairn, &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	while (!r && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	signal(SIGINT, old_int);
	signal(SIGQUIT, old_quit);
	if (r) {
		fprintf(stderr, "error: %s: %s\n", s->cairn, strerror(r));
		return 1;
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void command_run(struct shell *s, const struct words *w)
{
	const char *verb = w->list[0];

	fflush(stdout);
	if (!strcmp(verb, "quit") || !strcmp(verb, "exit"))
		s->quit = true;
	else if (!strcmp(verb, "cd"))
		s->status = folder_change(w);
	else if (!strcmp(verb, "pwd"))
		s->status = folder_print();
	else
		s->status = cairn_run(s, w);
}

static void line_run(struct shell *s, const char *line)
{
	while (*line && !s->quit) {
		struct words w;
		const char *wrong = words_take(&line, &w);

		if (wrong) {
			fprintf(stderr, "error: %s\n", wrong);
			s->status = USAGE;
		} else if (w.n) {
			command_run(s, &w);
		}
		words_done(&w);
		if (wrong)
			return;
	}
}

/* ---- history ---- */

static void history_begin(struct shell *s)
{
	const char *cache = getenv("XDG_CACHE_HOME"), *home = home_folder();
	char folder[PATH_MAX - 16], *name;
	int n = cache && *cache ? snprintf(folder, sizeof(folder), "%s/cairn", cache) :
			  home	? snprintf(folder, sizeof(folder), "%s/.cache/cairn", home) : -1;

	using_history();
	stifle_history(HISTORY_LINES);
	if (n < 0 || n >= (int)sizeof(folder))
		return;
	name = strrchr(folder, '/');
	*name = 0;
	mkdir(folder, 0700); /* a new user has no ~/.cache */
	*name = '/';
	if (mkdir(folder, 0700) < 0 && errno != EEXIST)
		return;
	snprintf(s->history, sizeof(s->history), "%s/history", folder);
	read_history(s->history);
}

/* A line that begins with a blank, or may have a password, is not kept. */
static void history_keep(const char *line)
{
	if (*line && *line != ' ' && !strstr(line, "password"))
		add_history(line);
}

static void history_end(const struct shell *s)
{
	mode_t mask = umask(077);

	if (s->history[0])
		write_history(s->history);
	umask(mask);
}

/* ---- reading lines ---- */

static sigjmp_buf prompt_again;

static void interrupted(int sig)
{
	(void)sig;
	siglongjmp(prompt_again, 1);
}

/* Read a line. SIGINT discards the typed line. Returns NULL at the end of the input. The caller frees the line. */
static char *line_read(const char *prompt)
{
	char *line;

	if (sigsetjmp(prompt_again, 1))
		putchar('\n');
	signal(SIGINT, interrupted);
	line = readline(prompt);
	signal(SIGINT, SIG_DFL);
	return line;
}

static void terminal_read(struct shell *s)
{
	const char *prompt = geteuid() ? "cairn > " : "cairn # ";
	char *line;

	printf("The command line of Cairn. help lists the verbs, help VERB shows one; Tab completes; quit ends.\n\n");
	history_begin(s);
	complete_begin(s->cairn, s->socket);
	while (!s->quit && (line = line_read(prompt))) {
		history_keep(line);
		line_run(s, line);
		free(line);
	}
	if (!s->quit)
		putchar('\n');
	history_end(s);
}

static void file_read(struct shell *s)
{
	char *line = NULL;
	size_t size = 0;

	while (!s->quit && getline(&line, &size, stdin) > 0)
		line_run(s, line);
	free(line);
}

int main(int argc, char **argv)
{
	struct shell s = { .cairn = argc > 1 ? argv[1] : "", .socket = argc > 2 ? argv[2] : "" };
	const char *line = argc > 4 && !strcmp(argv[3], "--line") ? argv[4] : NULL;
	int at = line ? 5 : 3;

	if (argc < at || argc > at + OPTIONS_MAX) {
		fprintf(stderr, "error: cairn-shell is started by cairn: see cairn help shell\n");
		return USAGE;
	}
	s.options = argv + at;
	s.terminal = line || (isatty(0) && isatty(1));
	if (line)
		line_run(&s, line);
	else if (s.terminal)
		terminal_read(&s);
	else
		file_read(&s);
	return s.status;
}
