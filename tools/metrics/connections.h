/* connections: ends connections that keep the web server of cairn-metrics or cairn-web waiting. A client that sends a
 * request byte by byte has a time limit for the whole of it, and makes room when there are many connections. Any
 * thread. */
#ifndef CAIRN_TOOLS_METRICS_CONNECTIONS_H
#define CAIRN_TOOLS_METRICS_CONNECTIONS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* With those that have been ended and are still there: on a busy host, their threads take a while to see the end. */
#define CONNECTIONS_MAX 1024

struct connections {
	pthread_mutex_t lock;
	int crowd; /* from this number on, each new connection ends a waiting one */
	struct connection {
		int fd; /* -1: the row is free */
		uint64_t since_ns; /* waits for a request since then; 0: answers one */
		int session; /* of the request that it answers; -1: none */
		bool ended; /* its thread will see the end */
	} rows[CONNECTIONS_MAX];
};

void connections_init(struct connections *c, int crowd);
/* Note a new connection. fd: borrowed until connections_remove(). In a crowd, the connection that has waited longest
 * for a request ends. Returns the new one's row; -1: the table is full. */
int connections_add(struct connections *c, int fd);
void connections_remove(struct connections *c, int row);
int connections_count(struct connections *c);
/* The request is complete; or its answer is sent, and the wait for the next request begins. row -1: nothing. */
void connections_answer(struct connections *c, int row, int session);
void connections_wait(struct connections *c, int row);
/* End all answers of a session, such as events, except that of a row. */
void connections_end(struct connections *c, int session, int except);
/* End the connections that have waited too long for a request. */
void connections_expire(struct connections *c);

#endif
