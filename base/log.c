#include "base/log.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GUEST_WINDOW_NS (5 * 1000000000ULL)
#define GUEST_BURST 10
#define LINES_WINDOW_NS (60 * 1000000000ULL)

atomic_int log_level_now = LOG_LEVEL_INFO;
static atomic_int log_fd = 2;
static char log_owner[64];
static struct log_sink log_sink;
static unsigned lines_burst; /* lines of a kind in LINES_WINDOW_NS; 0: no limit */
static struct ratelimit lines[2]; /* errors; warnings and information */
static atomic_ullong lines_lost; /* since the last line that was written */

void log_set_level(enum log_level level)
{
	atomic_store(&log_level_now, (int)level);
}

void log_set_limit(unsigned lines_a_minute)
{
	lines_burst = lines_a_minute;
}

void log_set_fd(int fd)
{
	atomic_store(&log_fd, fd);
}

void log_set_sink(const struct log_sink *sink)
{
	log_sink = sink ? *sink : (struct log_sink){ NULL, NULL };
}

void log_set_owner(const char *name)
{
	snprintf(log_owner, sizeof(log_owner), "%s", name);
}

/* Give a line to the sink. vm: or NULL. Returns whether the sink has taken the line. */
static bool line_sink(enum log_level level, const char *device, const char *vm, const char *msg)
{
	char text[1024], name[256];

	snprintf(text, sizeof(text), "%s%s%s", device ? device : "", device ? ": " : "", msg);
	snprintf(name, sizeof(name), "%s", vm ? vm : "");
	utf8_clean(text);
	utf8_clean(name);
	return log_sink.take(log_sink.opaque, level, vm ? name : NULL, text);
}

__attribute__((format(printf, 3, 0))) static void line_write(enum log_level level, const char *device, const char *fmt, va_list ap)
{
	const char *vm = NULL;
	va_list first;
	static const char *const names[] = { "error", "warning", "info", "debug", "trace" };
	char line[1024], msg[800];
	struct timespec ts;
	struct tm tm;
	int n;

	va_copy(first, ap);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	if (log_sink.take && !strncmp(fmt, LOG_VM, strlen(LOG_VM)))
		vm = va_arg(first, const char *);
	va_end(first);
	if (log_sink.take && line_sink(level, device, vm, msg))
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	n = snprintf(line, sizeof(line), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %s %s%s%s%s%s\n",
		tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
		(int)(ts.tv_nsec / 1000000), names[level], log_owner,
		log_owner[0] && device ? "/" : "", device ? device : "",
		log_owner[0] || device ? ": " : "", msg);
	n = MIN(n, (int)sizeof(line) - 1);
	/* Guests and definitions choose parts of a message. Replace control characters, so that a message stays one
	 * line and a terminal obeys nothing in it. A truncated line loses its last byte to the newline. */
	line[n - 1] = 0;
	utf8_clean(line);
	line[n - 1] = '\n';
	/* A non-blocking pipe is full if its reader is slow: count the lost lines, and let the next line report their
	 * number. Other failures can be reported nowhere. */
	if (write(atomic_load(&log_fd), line, (size_t)n) < 0 && errno == EAGAIN)
		atomic_fetch_add(&lines_lost, 1);
}

void log_line(const char *text)
{
	char line[1024];
	int n = snprintf(line, sizeof(line), "%s%s%s\n", log_owner, log_owner[0] ? ": " : "", text);

	if (write(atomic_load(&log_fd), line, MIN((size_t)n, sizeof(line) - 1)) < 0)
		return;
}

static void line_write_now(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	line_write(level, NULL, fmt, ap);
	va_end(ap);
}

/* Whether the process may write one more line of this level. Lines that only a request for them switches on have no
 * limit. */
static bool line_pass(enum log_level level)
{
	unsigned long long lost = atomic_load_explicit(&lines_lost, memory_order_relaxed) ? atomic_exchange(&lines_lost, 0) : 0;
	uint64_t left_out;

	if (lost)
		line_write_now(LOG_LEVEL_WARN, "%llu lines lost: the log's reader did not keep up", lost);
	if (!lines_burst || level > LOG_LEVEL_INFO)
		return true;
	if (!ratelimit_take_of(&lines[level != LOG_LEVEL_ERROR], lines_burst, LINES_WINDOW_NS,
		    clock_ns(CLOCK_MONOTONIC_COARSE), &left_out))
		return false;
	if (left_out)
		line_write_now(level, "%" PRIu64 " lines left out: more than %u in a minute", left_out, lines_burst);
	return true;
}

void log_write(enum log_level level, const char *device, const char *fmt, ...)
{
	va_list ap;

	if (!log_enabled(level) || !line_pass(level))
		return;
	va_start(ap, fmt);
	line_write(level, device, fmt, ap);
	va_end(ap);
}

bool log_ratelimit_pass(struct ratelimit *r)
{
	uint64_t left_out;

	if (!ratelimit_take_of(r, GUEST_BURST, GUEST_WINDOW_NS, clock_ns(CLOCK_MONOTONIC_COARSE), &left_out))
		return false;
	if (left_out)
		log_write(LOG_LEVEL_WARN, NULL, "%" PRIu64 " similar lines left out", left_out);
	return true;
}
