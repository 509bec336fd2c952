/* shell_word: a text as one word of a shell's command line, for hints such as "Next: cairn start 'Windows 10'". */
#ifndef CAIRN_BASE_SHELL_WORD_H
#define CAIRN_BASE_SHELL_WORD_H

/* A returned one is valid until the end of the statement: printf("cairn start %s", shell_word(name).s). */
struct shell_word {
	char s[1024]; /* has room for a VM's name, also if all of its characters are quotes */
};

/* Return the text as it is if a shell takes it as one word, else in single quotes. A text that does not fit is cut at
 * the end. A text that begins with "-" is an option even in quotes. */
struct shell_word shell_word(const char *text);

#endif
