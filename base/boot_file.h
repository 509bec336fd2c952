/* boot_file: the name of a file that guests boot from the network, in a network's definition and in dnsmasq's
 * configuration. */
#ifndef CAIRN_BASE_BOOT_FILE_H
#define CAIRN_BASE_BOOT_FILE_H

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#define BOOT_FILE_BYTES 127 /* RFC 2131, section 2, with a NUL */
#define BOOT_FILE_CHARACTERS "letters, digits and / . _ ~ : ? & = % + @ -"

/* Return whether the text can be the name of a file or a URL. Its length is not checked. */
static inline bool boot_file_has_characters(const char *s)
{
	static const char taken[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._~:?&=%+@-";

	return (isalnum((unsigned char)*s) || *s == '/') && !s[strspn(s, taken)];
}

/* Return whether dnsmasq would read the text as a tag. */
static inline bool boot_file_is_tag(const char *s)
{
	return !strncmp(s, "tag:", 4) || !strncmp(s, "net:", 4);
}

#endif
