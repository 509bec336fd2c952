/* log: lines to one fd, each with time, level, VM and device.
 *
 * "2026-11-20T06:58:19.123Z info vm1/vda: message". The level and the fd are
 * the process's only mutable globals. Safe from any thread; a line is one
 * write(2). */
#ifndef CAIRN_BASE_LOG_H
#define CAIRN_BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG, LOG_LEVEL_TRACE };

/* DEBUG is the control path, TRACE the data path (one line per request). */
void log_set_level(enum log_level level);
/* fd: borrowed; 2 until set. */
void log_set_fd(int fd);
/* Name that stands before the device's: the VM's, or "cairnd". Copied (63 bytes). */
void log_set_owner(const char *name);
bool log_enabled(enum log_level level);

/* device: "vda", "serial0", or NULL. */
void log_write(enum log_level level, const char *device, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define log_error(dev, ...) log_write(LOG_LEVEL_ERROR, dev, __VA_ARGS__)
#define log_warn(dev, ...) log_write(LOG_LEVEL_WARN, dev, __VA_ARGS__)
#define log_info(dev, ...) log_write(LOG_LEVEL_INFO, dev, __VA_ARGS__)
#define log_debug(dev, ...)                                                                        \
	do {                                                                                       \
		if (log_enabled(LOG_LEVEL_DEBUG))                                                  \
			log_write(LOG_LEVEL_DEBUG, dev, __VA_ARGS__);                              \
	} while (0)

/* For what a guest can trigger: at most 10 lines per 5 s and place, the rest
 * counted and said in the next line that passes. */
struct log_ratelimit {
	_Atomic uint64_t window_ns; /* start of the present window */
	atomic_uint passed, dropped;
};
bool log_ratelimit_pass(struct log_ratelimit *r);
#define log_guest(dev, ...)                                                                        \
	do {                                                                                       \
		static struct log_ratelimit rl_;                                                   \
		if (log_ratelimit_pass(&rl_))                                                      \
			log_write(LOG_LEVEL_WARN, dev, __VA_ARGS__);                               \
	} while (0)

#endif
