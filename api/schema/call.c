#include "api/schema/call.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"

#include <stdio.h>

void call_return_fd(struct call *c, struct json_object *v, int fd)
{
	struct json_object *o = json_object_new_object();

	if (!v)
		v = c->is_text ? json_object_new_string("") : json_object_new_object();
	js_put(o, "return", v);
	c->reply(c, o, fd);
}

void call_return(struct call *c, struct json_object *v)
{
	call_return_fd(c, v, -1);
}

void call_fail_class(struct call *c, const char *class_name, const char *desc)
{
	c->reply(c, js_error(class_name, desc), -1);
}

void call_fail(struct call *c, const struct err *e)
{
	char text[ERR_SENTENCE_MAX + 16];

	log_debug("command", "%s: %s", c->command ? c->command->name : "?", e->msg);
	if (c->is_text) {
		snprintf(text, sizeof(text), "Error: %s\r\n", e->msg);
		call_return(c, json_object_new_string(text));
		return;
	}
	call_fail_class(c, err_class_name(e->cls), e->msg);
}

enum role call_role_for(const struct call *c, const uint8_t *uuid)
{
	return c->role_for(c, uuid);
}

int call_check_role(const struct call *c, enum role role, const struct vm *vm, struct err *e)
{
	return c ? c->check_role(c, role, vm, e) : 0;
}

void call_done(void *opaque, int r, const struct err *e)
{
	if (r < 0)
		call_fail(opaque, e);
	else
		call_return(opaque, NULL);
}
