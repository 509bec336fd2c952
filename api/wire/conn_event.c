/* conn_event: sends events to the clients that may see them and want them. */
#include "api/wire/conn_internal.h"

#include <string.h>

void conn_set_filter(struct conn *c, const struct conn_filter *f)
{
	c->filter = *f;
}

static bool filter_passes(const struct conn_filter *f, const uint8_t *uuid, unsigned event)
{
	return (!f->one_vm || (uuid && !memcmp(uuid, f->uuid, sizeof(f->uuid)))) && !f->left_out[event];
}

void server_broadcast(struct server *s, struct json_object *o, const uint8_t *uuid, unsigned event)
{
	for (struct conn *c = s->conns, *next; c; c = next) {
		next = c->next;
		if (c->negotiated && c->from && !c->from->vm && filter_passes(&c->filter, uuid, event) &&
			(c->role >= ROLE_VIEWER || (uuid && conn_role_for(c, uuid) >= ROLE_VIEWER)))
			conn_send(c, o, -1);
	}
}

void listener_broadcast(struct listener *l, struct json_object *o)
{
	for (struct conn *c = l->server->conns, *next; c; c = next) {
		next = c->next;
		if (c->negotiated && c->from == l &&
			conn_role_for(c, l->uuid) >= ROLE_VIEWER)
			conn_send(c, o, -1);
	}
}

void server_notify_admins(struct server *s, struct json_object *o, const uint8_t *uuid, unsigned event)
{
	for (struct conn *c = s->conns, *next; c; c = next) {
		next = c->next;
		if (c->negotiated && c->from && !c->from->vm && c->role >= ROLE_ADMIN && filter_passes(&c->filter, uuid, event))
			conn_send(c, o, -1);
	}
}
