#include "tools/shell/complete.h"
#include "tools/shell/words.h"
#include "base/util.h"

#include <editline/readline.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINES_MAX 4096

/* Context of readline's callbacks, which get none. */
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

/* Run `cairn complete` with the words before the cursor and the word at it. Returns its output for reading; NULL: it
 * could not be started. */
static FILE *cairn_begin(const struct words *before, const char *word, pid_t *ret_pid)
{
	const char *argv[WORDS_MAX + 8] = { completion.cairn }, **to = argv + 1;
	posix_spawn_file_actions_t files;
	int pair[2], r;

	if (*completion.socket) {
		*to++ = "--connect";
		*to++ = completion.socket;
	}
	*to++ = "complete";
	*to++ = "--";
	for (size_t i = 0; i < before->n; i++)
		*to++ = before->list[i];
	*to = word;
	if (pipe2(pair, O_CLOEXEC) < 0)
		return NULL;
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, pair[1], 1);
	posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
	r = posix_spawn(ret_pid, completion.cairn, &files, NULL, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&files);
	close(pair[1]);
	if (!r)
		return fdopen(pair[0], "r");
	close(pair[0]);
	return NULL;
}

/* Collect the words that may stand at the cursor. Returns true if names of files may stand there, too. */
static bool candidates_collect(const struct words *before, const char *word)
{
	FILE *f;
	char *line = NULL;
	bool files = false;
	size_t size = 0;
	pid_t pid;

	lines_clear();
	f = cairn_begin(before, word, &pid);
	while (f && completion.n < LINES_MAX && getline(&line, &size, f) > 0) {
		line[strcspn(line, "\t\n")] = 0;
		if (!strcmp(line, ":files"))
			files = true;
		else
			completion.lines[completion.n++] = must_alloc(strdup(line));
	}
	free(line);
	if (!f)
		return false;
	fclose(f);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return files;
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
	char **matches;

	(void)end;
	lines_clear();
	while (!words_take(&line, &before) && *line)
		words_done(&before);
	rl_attempted_completion_over = !candidates_collect(&before, word); /* 0: without matches, complete names of files */
	words_done(&before);
	free(text);
	matches = rl_completion_matches(word, candidate_next);
	rl_completion_append_character = matches && *matches[0] && matches[0][strlen(matches[0]) - 1] == ':' ? 0 : ' '; /* of "VM:" */
	return matches;
}

void complete_begin(const char *cairn, const char *socket)
{
	completion.cairn = cairn;
	completion.socket = socket;
	rl_attempted_completion_function = word_complete;
	rl_completer_word_break_characters = (char *)" \t;";
}
