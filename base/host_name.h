#ifndef CAIRN_BASE_HOST_NAME_H
#define CAIRN_BASE_HOST_NAME_H

#include <ctype.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define HOST_LABEL_MAX 63 /* RFC 1035, section 2.3.4 */
#define HOST_NAME_BYTES 253

/* Return the length of the host name's first label; 0: the text does not begin with a label. RFC 1123, section 2.1. */
static inline size_t host_label_length(const char *s)
{
	size_t n = strcspn(s, ".");

	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)s[i]) && (s[i] != '-' || !i || i == n - 1))
			return 0;
	return n > HOST_LABEL_MAX ? 0 : n;
}

/* Return whether it is a host name without a dot. */
static inline bool host_label_is_valid(const char *s)
{
	size_t n = host_label_length(s);

	return n && !s[n];
}

/* Return whether it is a host name, with or without dots. */
static inline bool host_name_is_valid(const char *s)
{
	const char *at = s;

	for (size_t n; (n = host_label_length(at)) != 0; at += n + 1)
		if (!at[n])
			return (size_t)(at + n - s) <= HOST_NAME_BYTES;
	return false;
}

#endif
