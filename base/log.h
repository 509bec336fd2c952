/* log: writes lines with time, level, VM and device to one fd.
 *
 * "2026-11-20T06:58:19.123Z info vm1/vda: message". The level, the fd and the owner's name are global to the process.
 * Any thread may log; each line is one write(2). If the fd is a pipe that does not block and is full, lines are lost,
 * and a later line says how many. */
#ifndef CAIRN_BASE_LOG_H
#define CAIRN_BASE_LOG_H

#include "base/ratelimit.h"

#include <stdatomic.h>
#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG, LOG_LEVEL_TRACE };

/* Set the highest level that is written. DEBUG covers the control path, TRACE the data path (one line per request). */
void log_set_level(enum log_level level);
/* Limit the lines of the whole process: this many errors, and as many other lines, in a minute. Lines of level DEBUG
 * and TRACE are not limited. The next line that passes is preceded by one that counts the suppressed lines. Call it
 * before there are threads. 0, the initial value: no limit. */
void log_set_limit(unsigned lines_a_minute);
/* Set the fd for log lines: borrowed; initially 2. */
void log_set_fd(int fd);
/* A sink gets the lines in place of the fd. take() returns false if the line shall go to the fd. take() runs in the
 * thread that logs, and logs nothing itself. vm: name of the VM that the line is about: the first argument of a format
 * that begins with LOG_VM; NULL: no VM. text: "device: message", without owner. Neither has control characters. */
#define LOG_VM "VM '%s'"
struct log_sink {
	bool (*take)(void *opaque, enum log_level level, const char *vm, const char *text);
	void *opaque;
};
/* Set the sink, which is copied. Call it before there are threads. NULL: none, as initially. */
void log_set_sink(const struct log_sink *sink);
/* Set the name before the device's: the VM's name, or a program's, such as "cairnd". Copies up to 63 bytes. */
void log_set_owner(const char *name);

/* Private to log_enabled(). */
extern atomic_int log_level_now;
static inline bool log_enabled(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&log_level_now, memory_order_relaxed);
}
/* Whether lines of level TRACE are written. If not, the test costs one load and one predicted branch. */
#define log_traces() __builtin_expect(log_enabled(LOG_LEVEL_TRACE), 0)

/* Write one line. device: "vda", "serial0", or NULL. */
void log_write(enum log_level level, const char *device, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Write one line without time and level. It takes no lock: for signal handlers. text: without control characters. */
void log_line(const char *text);

#define log_error(dev, ...) log_write(LOG_LEVEL_ERROR, dev, __VA_ARGS__)
#define log_warn(dev, ...) log_write(LOG_LEVEL_WARN, dev, __VA_ARGS__)
#define log_info(dev, ...) log_write(LOG_LEVEL_INFO, dev, __VA_ARGS__)
#define log_trace(dev, ...)                                                                        \
	do {                                                                                       \
		if (log_traces())                                                                  \
			log_write(LOG_LEVEL_TRACE, dev, __VA_ARGS__);                              \
	} while (0)
#define log_debug(dev, ...)                                                                        \
	do {                                                                                       \
		if (log_enabled(LOG_LEVEL_DEBUG))                                                  \
			log_write(LOG_LEVEL_DEBUG, dev, __VA_ARGS__);                              \
	} while (0)

/* Decide whether to write a line that a guest can trigger: at most 10 lines in 5 s for each r. Before the first line
 * after suppressed ones, log_ratelimit_pass() logs the number of suppressed lines. */
bool log_ratelimit_pass(struct ratelimit *r);
#define log_guest(dev, ...)                                                                        \
	do {                                                                                       \
		static struct ratelimit rl_;                                                   \
		if (log_ratelimit_pass(&rl_))                                                      \
			log_write(LOG_LEVEL_WARN, dev, __VA_ARGS__);                               \
	} while (0)

#endif
