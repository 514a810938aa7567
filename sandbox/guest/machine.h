/* What the parts of PID 1 share. */
#include <stdint.h>

#define HOME "/home/user"
#define WORK HOME "/work"
#define CONTENT_MAX 4096

struct boot {
	uint64_t uid, processes, open_files, file_bytes, address_bytes, cpu_s, memory_bytes, files;
};

/* files.c */
char *put_file(char *at, const char *path);

/* watch.c */
int holds_more_memory(uint64_t than);
uint64_t files_held(void);
