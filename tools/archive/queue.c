#include "tools/archive/archive.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <pthread.h>
#include <stdlib.h>

/* Enough chunks that neither thread waits at every step. */
#define QUEUE_CHUNKS 8

struct queue {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct chunk chunks[QUEUE_CHUNKS];
	unsigned put, took; /* number of chunks ever put and ever taken */
	bool ended, given_up;
	int r;
	struct err e;
};

struct queue *queue_new(void)
{
	struct queue *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	pthread_mutex_init(&q->mutex, NULL);
	pthread_cond_init(&q->changed, NULL);
	for (unsigned i = 0; i < QUEUE_CHUNKS; i++) {
		q->chunks[i].buf = aligned_alloc(4096, CHUNK_BYTES);
		if (!q->chunks[i].buf) {
			queue_free(q);
			return NULL;
		}
	}
	return q;
}

void queue_free(struct queue *q)
{
	if (!q)
		return;
	for (unsigned i = 0; i < QUEUE_CHUNKS; i++)
		free(q->chunks[i].buf);
	pthread_cond_destroy(&q->changed);
	pthread_mutex_destroy(&q->mutex);
	free(q);
}

struct chunk *queue_room(struct queue *q)
{
	LOCK_GUARD(&q->mutex);

	while (q->put - q->took == QUEUE_CHUNKS && !q->given_up)
		pthread_cond_wait(&q->changed, &q->mutex);
	return q->given_up ? NULL : &q->chunks[q->put % QUEUE_CHUNKS];
}

void queue_put(struct queue *q)
{
	LOCK_GUARD(&q->mutex);

	q->put++;
	pthread_cond_signal(&q->changed);
}

void queue_end(struct queue *q, int r, const struct err *e)
{
	LOCK_GUARD(&q->mutex);

	q->ended = true;
	q->r = r;
	if (r < 0)
		q->e = *e;
	pthread_cond_signal(&q->changed);
}

struct chunk *queue_next(struct queue *q)
{
	LOCK_GUARD(&q->mutex);

	while (q->put == q->took && !q->ended)
		pthread_cond_wait(&q->changed, &q->mutex);
	return q->put == q->took ? NULL : &q->chunks[q->took % QUEUE_CHUNKS];
}

void queue_took(struct queue *q)
{
	LOCK_GUARD(&q->mutex);

	q->took++;
	pthread_cond_signal(&q->changed);
}

void queue_give_up(struct queue *q)
{
	LOCK_GUARD(&q->mutex);

	q->given_up = true;
	pthread_cond_signal(&q->changed);
}

int queue_result(struct queue *q, struct err *e)
{
	LOCK_GUARD(&q->mutex);

	if (q->r < 0)
		*e = q->e;
	return q->r;
}
