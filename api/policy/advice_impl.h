/* advice_impl: internals that the files of advice share. Threading: none. */
#ifndef CAIRN_API_POLICY_ADVICE_IMPL_H
#define CAIRN_API_POLICY_ADVICE_IMPL_H

#include "api/policy/advice.h"

#define DAY_HOURS 24
#define WEEK_HOURS (7 * DAY_HOURS)

/* Add advice with a text. The caller adds a command and figures before the next call. Borrowed from the list. */
struct advice *advice_add(struct advice_list *l, enum advice_kind kind, const char *rule, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
void advice_command(struct advice *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void advice_figure(struct advice *a, const char *name, double value);
/* Note the data that a rule lacks, if the list is to have that. */
void advice_lacks(struct advice_list *l, const char *rule, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define SIZE_TEXT 32
const char *size_text(double bytes, char buf[SIZE_TEXT]);

/* Return the first point of the last `hours`. */
size_t hours_last(const struct trend_view *v, size_t hours);
/* Of the points from `from` on, return the number of known ones, and their average; NAN: none is known. */
size_t hours_known(const struct trend_view *v, enum trend_series s, size_t from);
double hours_mean(const struct trend_view *v, enum trend_series s, size_t from);

/* Apply the rules about shortage and unusual figures (advice_load.c). */
void advice_of_load(const struct advice_vm *vm, struct advice_list *ret);

#endif
