/* What a guest agent says: an object with "return" or "error". Whatever else there is, is passed
 * over; what is no JSON is garbage. */
#include "vmm/agent.h"

#include <ctype.h>
#include <string.h>

#define DEPTH_MAX 16

struct cursor {
	const char *at, *end;
};

static void blanks(struct cursor *c)
{
	while (c->at < c->end && strchr(" \t\r", *c->at) && *c->at)
		c->at++;
}

/* The next character that is no blank; 0 at the end. */
static char peek(struct cursor *c)
{
	blanks(c);
	return c->at < c->end ? *c->at : 0;
}

static bool take(struct cursor *c, char want)
{
	if (peek(c) != want)
		return false;
	c->at++;
	return true;
}

/* A string's content, cut to fit: an escape counts as one '?'. buf: NULL: passed over. */
static bool string(struct cursor *c, char *buf, size_t size)
{
	size_t n = 0;

	if (!take(c, '"'))
		return false;
	for (; c->at < c->end && *c->at != '"'; c->at++) {
		char ch = *c->at;

		if (ch == '\\' && ++c->at == c->end)
			return false;
		if (ch == '\\' || !isprint((unsigned char)ch))
			ch = '?';
		if (buf && n + 1 < size)
			buf[n++] = ch;
	}
	if (buf)
		buf[n] = 0;
	return c->at++ < c->end;
}

static bool number(struct cursor *c, int64_t *ret)
{
	bool negative = take(c, '-');
	const char *from = c->at;
	int64_t n = 0;

	for (; c->at < c->end && isdigit((unsigned char)*c->at); c->at++) {
		if (c->at - from >= 18)
			return false;
		n = 10 * n + (*c->at - '0');
	}
	*ret = negative ? -n : n;
	return c->at > from;
}

/* Any value: brackets are counted, strings looked into for their end. */
static bool value_skip(struct cursor *c)
{
	unsigned depth = 0;

	do {
		char ch = peek(c);

		if (!ch)
			return false;
		if (ch == '"') {
			if (!string(c, NULL, 0))
				return false;
			continue;
		}
		if ((ch == '{' || ch == '[') && ++depth > DEPTH_MAX)
			return false;
		if ((ch == '}' || ch == ']' || ch == ',' || ch == ':') && !depth)
			return false;
		if (ch == '}' || ch == ']')
			depth--;
		c->at++;
		/* A word or a number to its end. */
		while (!depth && c->at < c->end &&
			(isalnum((unsigned char)*c->at) || strchr("+-.", *c->at)) && *c->at &&
			(isalnum((unsigned char)ch) || ch == '-'))
			c->at++;
	} while (depth);
	return true;
}

static bool error_parse(struct cursor *c, struct agent_answer *ret)
{
	char key[16];

	if (!take(c, '{'))
		return false;
	while (!take(c, '}')) {
		bool good = string(c, key, sizeof(key)) && take(c, ':');

		if (good && !strcmp(key, "desc"))
			good = string(c, ret->desc, sizeof(ret->desc));
		else if (good)
			good = value_skip(c);
		if (!good || (!take(c, ',') && peek(c) != '}'))
			return false;
	}
	ret->kind = AGENT_ERROR;
	return true;
}

static bool return_parse(struct cursor *c, struct agent_answer *ret)
{
	char ch = peek(c);

	ret->kind = AGENT_RETURN;
	ret->is_number = ch == '-' || isdigit((unsigned char)ch);
	return ret->is_number ? number(c, &ret->number) : value_skip(c);
}

static bool object_parse(struct cursor *c, struct agent_answer *ret)
{
	char key[16];

	if (!take(c, '{'))
		return false;
	while (!take(c, '}')) {
		bool good = string(c, key, sizeof(key)) && take(c, ':');

		if (good && !strcmp(key, "return"))
			good = return_parse(c, ret);
		else if (good && !strcmp(key, "error"))
			good = error_parse(c, ret);
		else if (good)
			good = value_skip(c);
		if (!good || (!take(c, ',') && peek(c) != '}'))
			return false;
	}
	return !peek(c);
}

void agent_answer_parse(const char *line, size_t len, struct agent_answer *ret)
{
	struct cursor c = {line, line + len};

	*ret = (struct agent_answer){.kind = AGENT_GARBAGE};
	if (!object_parse(&c, ret))
		*ret = (struct agent_answer){.kind = AGENT_GARBAGE};
}
