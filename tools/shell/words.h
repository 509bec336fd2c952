/* words: splits a line of the interactive shell into commands and words (pure). */
#ifndef CAIRN_TOOLS_SHELL_WORDS_H
#define CAIRN_TOOLS_SHELL_WORDS_H

#include <stddef.h>

#define WORDS_MAX 256

/* One command: its words, as for execv(). The array ends with NULL. */
struct words {
	char *list[WORDS_MAX + 1];
	size_t n;
};

/* Take the first command of a line: words between blanks, up to a ';' or the end. '…' quotes everything, "…" all but \
 * and ", and \ quotes one character. A word that begins with # starts a comment.
 * *line: moved behind the command. Returns NULL; a sentence if the line is malformed. The caller calls words_done(). */
const char *words_take(const char **line, struct words *ret);
void words_done(struct words *w);

#endif
