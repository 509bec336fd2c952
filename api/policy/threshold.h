/* threshold: the rules of a VM that say when a figure is too high (pure functions and JSON; thresholds.h applies them).
 *
 * A threshold is raised when its figure was above `above` for `for_s` seconds without a break, and cleared when it was
 * at or below `below` for as long. Times in which the figure is unknown count for neither.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_THRESHOLD_H
#define CAIRN_API_POLICY_THRESHOLD_H

#include "base/ratelimit.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct err;
struct json_object;
struct rights;

#define THRESHOLDS_FILE "thresholds.json"
#define THRESHOLDS_MAX 32 /* of a VM */
#define THRESHOLD_NAME_MAX 63
#define THRESHOLD_FOR_MAX_S (7 * 24 * 3600)
#define THRESHOLD_FOR_DEFAULT_S 60

/* In the order of the schema's words for FIELD_MEASURE. */
enum threshold_measure {
	THRESHOLD_CPU,	      /* percent of all vCPUs */
	THRESHOLD_MEMORY,     /* percent of the guest's memory that is taken */
	THRESHOLD_DISK_SPACE, /* percent of the fullest file system with an image of the VM that is taken */
	THRESHOLD_LATENCY,    /* ns: the average of all requests of disks */
	THRESHOLD_IO_ERRORS,  /* requests of disks that failed, a second */
	THRESHOLD_NET,	      /* bytes a second of all interfaces, in both directions */
	THRESHOLD_MEASURES,
};

/* Index in the schema's words for FIELD_THRESHOLD_ACTION. */
enum threshold_action {
	THRESHOLD_NOTHING = -1,
	THRESHOLD_SHUTDOWN,
	THRESHOLD_REBOOT,
	THRESHOLD_SUSPEND,
	THRESHOLD_SAVE,
	THRESHOLD_SNAPSHOT,
};

struct threshold {
	char name[THRESHOLD_NAME_MAX + 1];
	enum threshold_measure measure;
	double above, below;
	uint32_t for_s;
	enum threshold_action then;
	uid_t uid;	      /* of the user who set it, with whose rights the action runs */
	struct rights *maker; /* owned; NULL: root or the daemon's own user */
	int64_t raised_s;     /* since when it is raised; 0: it is not */
	/* Not stored. */
	double value;	      /* the last one; NAN: none yet */
	double held_s;	      /* for so long the figure has been on the other side */
	struct ratelimit events;
	uint64_t act_after_ns; /* no action before this time */
};

struct thresholds {
	struct threshold *list[THRESHOLDS_MAX]; /* owned; in the order of their creation */
	size_t n;
};

/* Set above and below from texts such as "90", "90%", "20ms" or "100M". below: NULL: as above. Returns 0; -EINVAL. */
int threshold_set_limits(struct threshold *t, const char *above, const char *below, struct err *e);
/* Write a value of this measure with its unit. */
#define THRESHOLD_TEXT 40
const char *threshold_text(enum threshold_measure m, double value, char buf[THRESHOLD_TEXT]);

enum threshold_change { THRESHOLD_SAME, THRESHOLD_RAISED, THRESHOLD_CLEARED };
/* Take the average of the figure over the last `seconds`. value: NAN: unknown. now_s: since 1970. */
enum threshold_change threshold_update(struct threshold *t, double value, double seconds, int64_t now_s);

void threshold_free(struct threshold *t); /* NULL allowed */
void thresholds_done(struct thresholds *all); /* frees `all`, too; NULL allowed */
/* Return the index of a threshold; -1: none. all: NULL: there are none. */
int threshold_find(const struct thresholds *all, const char *name);

/* Return the content of THRESHOLDS_FILE. The caller owns it. */
struct json_object *thresholds_to_json(const struct thresholds *all);
/* Parse the content of THRESHOLDS_FILE. A threshold that is malformed is left out. *ret: owned; NULL: there are none.
 * ret_bad: the number of those left out. */
void thresholds_from_json(struct json_object *o, struct thresholds **ret, unsigned *ret_bad);

#endif
