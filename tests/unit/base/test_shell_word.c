#include "base/shell_word.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define NAME_BYTES 255 /* of the longest name of a VM */

static void test_plain_text_stays_as_it_is(void **state)
{
	static const char *const plain[] = { "web1", "a", "Web_1.example-2", "/srv/vms/a%b", "user@host:1+2" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
		assert_string_equal(shell_word(plain[i]).s, plain[i]);
}

static void test_other_text_is_quoted(void **state)
{
	static const struct {
		const char *text, *word;
	} all[] = { { "Windows 10", "'Windows 10'" }, { "", "''" }, { "it's", "'it'\\''s'" }, { "'", "''\\'''" },
		{ "$HOME `id` \\", "'$HOME `id` \\'" }, { "a\nb", "'a\nb'" }, { "-x", "'-x'" }, { "M\xc3\xbcller", "'M\xc3\xbcller'" },
		{ "a*b?c[d]", "'a*b?c[d]'" }, { "~root", "'~root'" }, { "#a", "'#a'" }, { "a;b", "'a;b'" }, { "a=b", "'a=b'" }, { "!1", "'!1'" },
		{ "\"a\"", "'\"a\"'" } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		assert_string_equal(shell_word(all[i].text).s, all[i].word);
}

static void shell_check(const char *text)
{
	char command[1100], out[NAME_BYTES + 2];
	size_t n;
	FILE *p;

	snprintf(command, sizeof(command), "printf %%s %s", shell_word(text).s);
	p = popen(command, "r");
	assert_non_null(p);
	n = fread(out, 1, sizeof(out), p);
	assert_int_equal(pclose(p), 0);
	assert_int_equal(n, strlen(text));
	assert_memory_equal(out, text, n);
}

static void test_shell_reads_the_word_as_the_text(void **state)
{
	char text[NAME_BYTES + 1];

	(void)state;
	for (unsigned i = 0; i < NAME_BYTES; i++)
		text[i] = (char)(i + 1);
	text[NAME_BYTES] = 0;
	shell_check(text);
	memset(text, '\'', NAME_BYTES);
	shell_check(text);
}

static void test_long_text_is_cut_within_its_quotes(void **state)
{
	char text[2000];
	struct shell_word w;

	(void)state;
	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	w = shell_word(text);
	assert_int_equal(strlen(w.s), sizeof(w.s) - 1);
	assert_true(w.s[0] == '\'' && w.s[1] == 'a' && w.s[sizeof(w.s) - 2] == '\'');
	memset(text, '\'', sizeof(text) - 1);
	w = shell_word(text);
	assert_int_equal((strlen(w.s) - 2) % 4, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain_text_stays_as_it_is),
		cmocka_unit_test(test_other_text_is_quoted),
		cmocka_unit_test(test_shell_reads_the_word_as_the_text),
		cmocka_unit_test(test_long_text_is_cut_within_its_quotes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
