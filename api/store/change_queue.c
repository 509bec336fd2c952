#include "api/store/change_queue.h"
#include "api/wire/json.h"
#include "base/util.h"

static void change_begin(struct change_queue *q);

static void change_stored(struct store_work *w)
{
	struct queued_change *c = container_of(w, struct queued_change, work);
	struct change_queue *q = c->queue;

	if (!w->r)
		c->ops->apply(c);
	q->first = c->next;
	if (q->first)
		change_begin(q);
	c->done(c->opaque, w->r, &w->e);
	c->ops->release(c);
}

/* Begin to store the first change. */
static void change_begin(struct change_queue *q)
{
	struct queued_change *c = q->first;
	CLEANUP_JS struct json_object *o = NULL;
	int r = c->ops->make(c, &o, &c->work.e);

	if (!r)
		r = store_put(c->store, NULL, c->ops->file, o, STORE_WITH_WORK, &c->work, &c->work.e);
	if (r < 0) {
		c->work.r = r;
		change_stored(&c->work);
	}
}

void change_queue_add(struct change_queue *q, struct queued_change *c, struct loop *l, struct store *s)
{
	struct queued_change **end = &q->first;

	c->work = (struct store_work){ .done = change_stored, .loop = l };
	c->store = s;
	c->queue = q;
	c->next = NULL;
	while (*end)
		end = &(*end)->next;
	*end = c;
	if (q->first == c)
		change_begin(q);
}

void change_queue_done(struct change_queue *q)
{
	struct queued_change *c;

	while ((c = q->first)) {
		q->first = c->next;
		c->ops->release(c);
	}
}
