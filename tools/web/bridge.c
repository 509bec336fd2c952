#include "tools/web/bridge.h"
#include "api/wire/client.h"
#include "api/wire/json.h"
#include "api/wire/wire.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/web/links.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMMANDS_MAX 64
#define NODES_MAX 16384 /* as the daemon takes */
/* When the answers of a request have this size, it runs no further command. */
#define ANSWERS_BYTES (2 * MIB)

/* ---- requests at once ---- */

int requests_begin(struct requests *q, const char *user, struct err *e)
{
	int row = -1, n = 0;
	LOCK_GUARD(&q->lock);

	for (int i = 0; i < REQUESTS_MAX; i++) {
		if (!q->rows[i].used)
			row = i;
		else
			n += !strcmp(q->rows[i].user, user);
	}
	if (n >= USER_REQUESTS_MAX)
		return err_set(e, -EBUSY, ERR_BUSY, "your pages have %d requests under way, which is the most; try again", USER_REQUESTS_MAX);
	if (row < 0)
		return err_set(e, -EBUSY, ERR_BUSY, "all users' pages have %d requests under way, which is the most; try again", REQUESTS_MAX);
	q->rows[row].used = true;
	memcpy(q->rows[row].user, user, strlen(user) + 1);
	return row;
}

void requests_end(struct requests *q, int row)
{
	LOCK_GUARD(&q->lock);

	if (row >= 0)
		q->rows[row].used = false;
}

/* ---- commands ---- */

/* Returns the name of the command; NULL: no command of the allowed form. */
static const char *command_name(struct json_object *command, struct json_object **ret_args)
{
	const char *name = js_get_str(command, "execute");

	*ret_args = js_get(command, "arguments");
	json_object_object_foreach (command, key, value) {
		(void)value;
		if (strcmp(key, "execute") && strcmp(key, "arguments"))
			return NULL;
	}
	if (*ret_args && !json_object_is_type(*ret_args, json_type_object))
		return NULL;
	return name && strcmp(name, "qmp_capabilities") ? name : NULL;
}

/* is_timed: the client has a deadline. */
static struct json_object *command_execute(struct client *c, struct json_object *command, bool is_timed)
{
	struct json_object *args, *value = NULL, *answer;
	const char *name = json_object_is_type(command, json_type_object) ? command_name(command, &args) : NULL;
	struct err e;
	int fd = -1, r;

	if (!name)
		r = err_set(&e, -EINVAL, ERR_INVALID, "a command is {\"execute\": NAME, \"arguments\": {...}}");
	else
		r = client_execute(c, name, json_object_get(args), &value, &fd, &e);
	if (r < 0 && !(r == -ETIMEDOUT && is_timed))
		return js_error(err_class_name(e.cls), e.msg);
	if (fd >= 0)
		close(fd); /* the page cannot have it */
	answer = json_object_new_object();
	if (r < 0)
		js_put_bool(answer, "pending", true);
	else
		js_put(answer, "return", value);
	return answer;
}

/* Parse a request with the daemon's own rules: printing it again would hide a duplicate key or a number that is too
 * large. */
static int request_parse(const char *body, size_t len, struct json_object **ret, struct err *e)
{
	static const struct wire_limits limits = { WIRE_TEXT_MAX, NODES_MAX };
	enum wire_result r;
	struct wire w;
	size_t used;

	wire_init(&w, &limits);
	r = wire_feed(&w, body, len, &used, ret, e);
	wire_done(&w);
	if (r == WIRE_MORE)
		return err_set(e, -EINVAL, ERR_INVALID, "the request is no complete JSON");
	if (r == WIRE_TEXT && js_space_skip(body + used, body + len) < body + len)
		return err_set(e, -EINVAL, ERR_INVALID, "something follows the JSON of the request");
	if (r == WIRE_TEXT)
		return 0;
	e->cls = ERR_INVALID;
	return -EINVAL;
}

/* Print an answer, so that only its text takes memory. answer: taken. */
static void answer_print(FILE *out, struct json_object *answer)
{
	fputs(json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN), out);
	json_object_put(answer);
}

static void commands_execute(struct client *c, struct json_object *commands, FILE *out)
{
	for (size_t i = 0; i < json_object_array_length(commands); i++) {
		fputc(i ? ',' : '[', out);
		if (ftello(out) < (off_t)ANSWERS_BYTES)
			answer_print(out, command_execute(c, json_object_array_get_idx(commands, i), false));
		else
			answer_print(out, js_error(err_class_name(ERR_INVALID), "not run: the answers before it are too large; send fewer commands in a request"));
	}
	fputs(json_object_array_length(commands) ? "]" : "[]", out);
}

char *bridge_execute(const struct links *links, int browser, unsigned seconds, const char *body, size_t len, size_t *ret_len)
{
	struct json_object *request = NULL;
	struct client *c = NULL;
	char *text = NULL;
	FILE *out = must_alloc(open_memstream(&text, ret_len));
	struct err e;
	int r = request_parse(body, len, &request, &e);
	bool many = r == 0 && json_object_is_type(request, json_type_array);

	if (many && json_object_array_length(request) > COMMANDS_MAX)
		r = err_set(&e, -EINVAL, ERR_INVALID, "a request has at most %d commands", COMMANDS_MAX);
	if (r == 0)
		r = links_client(links, &c, &e);
	if (r == 0)
		client_serve(c, browser, seconds && !many ? clock_monotonic_ns() + seconds * CLOCK_NS_PER_S : UINT64_MAX);
	if (r < 0)
		answer_print(out, js_error(err_class_name(e.cls), e.msg));
	else if (many)
		commands_execute(c, request, out);
	else
		answer_print(out, command_execute(c, request, seconds > 0));
	client_free(c);
	json_object_put(request);
	if (fclose(out) != 0)
		abort(); /* no memory */
	return text;
}
