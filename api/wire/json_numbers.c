/* Finds a number in a JSON text that no JSON has, or that json-c would clamp. */
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NUMBER_SHOWN 40 /* characters of a number in an error */

static const char *digits_skip(const char *p)
{
	return p + strspn(p, "0123456789");
}

/* Return the end of the JSON number at p, as far as there is one. */
static const char *number_end(const char *p)
{
	const char *end, *exponent;

	p += *p == '-';
	end = *p == '0' ? p + 1 : digits_skip(p);
	if (end != p && *end == '.' && isdigit((unsigned char)end[1]))
		end = digits_skip(end + 1);
	exponent = end + 1;
	if (end == p || tolower((unsigned char)*end) != 'e')
		return end;
	exponent += *exponent == '-' || *exponent == '+';
	return isdigit((unsigned char)*exponent) ? digits_skip(exponent) : end;
}

/* Return why a number of n characters is wrong; NULL: it is not. */
static const char *number_problem(const char *p, size_t n)
{
	if (number_end(p) != p + n)
		return "not as JSON writes numbers";
	if (strspn(p, "-0123456789") < n)
		return isfinite(strtod(p, NULL)) ? NULL : "too large";
	errno = 0;
	(void)(*p == '-' ? (unsigned long long)strtoll(p, NULL, 10) : strtoull(p, NULL, 10));
	return errno == ERANGE ? "below -2^63 or above 2^64 - 1" : NULL;
}

struct wrong_number {
	const char *at, *why;
	int len;
};

/* Find the first such number. Returns false: there is none. */
static bool wrong_number_find(const char *text, const char *end, struct wrong_number *ret)
{
	char quote = 0;

	for (const char *p = text; p < end; p++) {
		size_t n = quote || !(isdigit((unsigned char)*p) || *p == '-') ? 0 : strspn(p, "-+.0123456789eE");
		const char *why = NULL;

		if (quote && *p == '\\')
			p++;
		else if (quote)
			quote = *p == quote ? 0 : quote;
		else if (*p == '"' || *p == '\'')
			quote = *p;
		else if (!strncasecmp(p + n, "nan", 3) || !strncasecmp(p + n, "inf", 3))
			why = "not finite";
		else if (n)
			why = number_problem(p, n);
		if (why) {
			*ret = (struct wrong_number){ p, why, (int)strcspn(p, ",]} \t\r\n") };
			return true;
		}
		p += n ? n - 1 : 0;
	}
	return false;
}

int js_numbers_check(const char *text, size_t len, const char *name, struct err *e)
{
	struct wrong_number wrong;

	if (!wrong_number_find(text, text + len, &wrong))
		return 0;
	return err_set(e, -ERANGE, ERR_INVALID, "%s: the number %.*s%s is %s", name, MIN(wrong.len, NUMBER_SHOWN), wrong.at,
		wrong.len > NUMBER_SHOWN ? "..." : "", wrong.why);
}
