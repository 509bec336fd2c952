/* change_queue: changes of a list that a file of the store has. A change takes effect once the file has it. Changes are
 * stored one by one, each from the list that is in effect then, so one that is not stored has no effect on those behind
 * it. Threading: the loop. */
#ifndef CAIRN_API_STORE_CHANGE_QUEUE_H
#define CAIRN_API_STORE_CHANGE_QUEUE_H

#include "api/store/store.h"

struct queued_change;
struct json_object;

struct queued_change_ops {
	const char *file;
	/* Make the content of the file with the change. Returns 0 and an object that the caller owns; -errno with a
	 * sentence: the change is refused. */
	int (*make)(struct queued_change *c, struct json_object **ret, struct err *e);
	/* The file has the change: let it take effect. */
	void (*apply)(struct queued_change *c);
	void (*release)(struct queued_change *c);
};

/* Part of a change, which the queue owns from change_queue_add() on. The caller sets ops, done and opaque. */
struct queued_change {
	const struct queued_change_ops *ops;
	void (*done)(void *opaque, int r, const struct err *e); /* called once, unless change_queue_done() comes first */
	void *opaque;
	/* The queue's own. */
	struct store_work work;
	struct store *store;
	struct change_queue *queue;
	struct queued_change *next;
};

struct change_queue {
	struct queued_change *first; /* is being stored; the others wait. NULL: none */
};

/* Store the change behind those that wait. done() may be called inside the call. */
void change_queue_add(struct change_queue *q, struct queued_change *c, struct loop *l, struct store *s);
/* Release the changes that are not stored. */
void change_queue_done(struct change_queue *q);

#endif
