#include "tools/shell/complete.h"
#include "tools/shell/words.h"
#include "base/util.h"

#include <editline/readline.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX 8
#define LINES_MAX 4096

extern char **environ;

/* What readline's callbacks, which get no context, need. */
static struct {
	const char *cairn, *socket;
	char *lines[LINES_MAX]; /* candidates */
	size_t n, at;
} completion;

static void lines_clear(void)
{
	while (completion.n)
		free(completion.lines[--completion.n]);
}

/* Run cairn, and return its output for reading; NULL: it could not be started. */
static FILE *cairn_begin(const char *const *args, pid_t *ret_pid)
{
	char *argv[ARGS_MAX + 4] = { (char *)completion.cairn }, **to = argv + 1;
	posix_spawn_file_actions_t files;
	int pair[2], r;

	if (*completion.socket) {
		*to++ = (char *)"--connect";
		*to++ = (char *)completion.socket;
	}
	for (size_t i = 0; args[i]; i++)
		*to++ = (char *)args[i];
	if (pipe2(pair, O_CLOEXEC) < 0)
		return NULL;
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, pair[1], 1);
	posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
	r = posix_spawn(ret_pid, completion.cairn, &files, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	close(pair[1]);
	if (!r)
		return fdopen(pair[0], "r");
	close(pair[0]);
	return NULL;
}

/* Replace the candidates by cairn's lines of output. */
static void lines_ask(const char *const *args)
{
	FILE *f;
	char *line = NULL;
	size_t size = 0;
	pid_t pid;

	lines_clear();
	f = cairn_begin(args, &pid);
	while (f && completion.n < LINES_MAX && getline(&line, &size, f) > 0) {
		line[strcspn(line, "\n")] = 0;
		completion.lines[completion.n++] = must_alloc(strdup(line));
	}
	free(line);
	if (!f)
		return;
	fclose(f);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* Let a candidate end at its first blank: what follows is not part of the word. */
static void lines_cut(void)
{
	for (size_t i = 0; i < completion.n; i++)
		completion.lines[i][strcspn(completion.lines[i], " ")] = 0;
}

/* Return what the verb's first positional is, such as "vm"; "": nothing that can be completed. */
static void kind_of(const char *verb, char *buf, size_t size)
{
	size_t len = strlen(verb);

	buf[0] = 0;
	lines_ask((const char *const[]){ "help", "--names", NULL });
	for (size_t i = 0; i < completion.n; i++)
		if (!strncmp(completion.lines[i], verb, len) && completion.lines[i][len] == ' ')
			snprintf(buf, size, "%s", completion.lines[i] + len + 1);
	lines_clear();
}

/* Collect the values of the option before the cursor. Returns whether it has any that are known. */
static bool values_collect(const char *verb, const char *option)
{
	lines_ask((const char *const[]){ "help", verb, "--values", option, NULL });
	return completion.n;
}

/* Collect candidates for the word at the cursor. before: the words before it. */
static void candidates_collect(const struct words *before, const char *word)
{
	const char *verb = before->n ? before->list[0] : NULL, *last = before->n ? before->list[before->n - 1] : "";
	char kind[32];

	if (!verb) {
		lines_ask((const char *const[]){ "help", "--names", NULL });
		lines_cut();
	} else if (word[0] == '-') {
		lines_ask((const char *const[]){ "help", "--options", verb, NULL });
		lines_cut();
	} else if (!strncmp(last, "--", 2) && values_collect(verb, last)) {
		return;
	} else {
		kind_of(verb, kind, sizeof(kind));
		if (!strncmp(kind, "vm", 2))
			lines_ask((const char *const[]){ "list", "--name", "--can", verb, NULL });
	}
}

static char *candidate_next(const char *word, int state)
{
	size_t len = strlen(word);

	if (!state)
		completion.at = 0;
	while (completion.at < completion.n) {
		const char *c = completion.lines[completion.at++];

		/* A name that would need quotes is left out. */
		if (*c && !strncmp(c, word, len) && !strpbrk(c, " \t;'\"\\#"))
			return strdup(c);
	}
	return NULL;
}

static char **word_complete(const char *word, int start, int end)
{
	char *text = must_alloc(strndup(rl_line_buffer, (size_t)start));
	const char *line = text;
	struct words before = { 0 };

	(void)end;
	lines_clear();
	while (!words_take(&line, &before) && *line)
		words_done(&before);
	candidates_collect(&before, word);
	words_done(&before);
	free(text);
	return rl_completion_matches(word, candidate_next);
}

void complete_begin(const char *cairn, const char *socket)
{
	completion.cairn = cairn;
	completion.socket = socket;
	rl_attempted_completion_function = word_complete;
	rl_completer_word_break_characters = (char *)" \t;";
}
