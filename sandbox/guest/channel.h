/* How next_question finds PID 1. The bytes are stored masked, so that neither `strings` nor a look
 * at the file shows a path, the name of the script or of the channel. */
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MASK 0x5a
#define ASK_NEXT 'N'
#define SAY_BEGUN 'B'
#define ASK_ON 'C'

static inline void unmask(char *to, const volatile unsigned char *from, size_t size)
{
	for (size_t i = 0; i < size; i++)
		to[i] = (char)(from[i] ^ MASK);
}

/* An abstract name: it lives and dies with the sandbox's network namespace. */
static inline socklen_t channel_name(struct sockaddr_un *name)
{
	static const volatile unsigned char masked[] = { 'q' ^ MASK, 'd' ^ MASK };
	memset(name, 0, sizeof *name);
	name->sun_family = AF_UNIX;
	unmask(name->sun_path + 1, masked, sizeof masked);
	return offsetof(struct sockaddr_un, sun_path) + 1 + sizeof masked;
}
