/* difference: what is another in the second of two JSON values, a line each, for people. */
#ifndef CAIRN_TOOLS_DIFFERENCE_H
#define CAIRN_TOOLS_DIFFERENCE_H

#include <stdio.h>

struct json_object;

/* "memory: "128M" -> "256M"", "disks[vdb]: removed {...}". Elements of an array that have an id are held
 * against those of the same id. Returns how many lines. */
unsigned difference_print(FILE *f, struct json_object *was, struct json_object *now);

#endif
