/* cleanup: attributes that release a local variable at the end of its scope. CLEANUP_FREE accepts NULL, CLEANUP_CLOSE
 * accepts -1. */
#ifndef CAIRN_BASE_CLEANUP_H
#define CAIRN_BASE_CLEANUP_H

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_p(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_close_p(const int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	errno = saved;
}

static inline void cleanup_unlock_p(pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock(*m);
}

#define CLEANUP_FREE __attribute__((cleanup(cleanup_free_p)))
#define CLEANUP_CLOSE __attribute__((cleanup(cleanup_close_p)))
#define CLEANUP(fn) __attribute__((cleanup(fn)))

/* Hold a mutex until the scope ends. */
#define LOCK_GUARD(m)                                                                              \
	pthread_mutex_t *lock_guard_ __attribute__((cleanup(cleanup_unlock_p), unused)) =          \
		(pthread_mutex_lock(m), (m))

/* Pass ownership on: return the value and leave the empty value in its place. */
static inline int steal_fd(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

#define STEAL_PTR(p)                                                                               \
	({                                                                                         \
		__typeof__(p) steal_ = (p);                                                        \
		(p) = NULL;                                                                        \
		steal_;                                                                            \
	})

#endif
