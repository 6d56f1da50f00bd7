/* Loads libtorch and finds functions in it, for the trampolines. Called from any thread: dlopen of an open library is counted,
   and two threads that bind one function store the same address. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "functions.h"

extern void *yolo_torch_slots[] __attribute__((visibility("hidden")));

/* The library as already loaded (a plugin finds that of the program), beside the executable (an installed program), or where
   it was built. */
static void *open_library(void) {
    void *library = dlopen(LIBRARY, RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);
    if (library) {
        return library;
    }
    char path[PATH_MAX + sizeof LIBRARY];
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
    if (length > 0) {
        path[length] = 0;
        char *slash = strrchr(path, '/');
        if (slash) {
            strcpy(slash + 1, LIBRARY);
            if (access(path, R_OK) == 0) {
                return dlopen(path, RTLD_LAZY | RTLD_LOCAL);
            }
        }
    }
    return dlopen(BUILT_AT, RTLD_LAZY | RTLD_LOCAL);
}

/* Loads libtorch if it is not. Returns 0, or the reason, which lives until the thread's next use of dlopen. */
__attribute__((visibility("hidden"))) const char *yolo_torch_load(void) {
    return open_library() ? NULL : dlerror();
}

__attribute__((visibility("hidden"))) void *yolo_torch_bind(uint64_t index) {
    const char *name = NAMES + OFFSETS[index];
    void *library = open_library();
    void *function = library ? dlsym(library, name) : NULL;
    if (!function) {
        /* There is no way back into the caller, who expects a tensor. */
        fprintf(stderr,
                "error: libtorch: can't be loaded: %s\n"
                "  help: `cargo xtask setup` puts it in place, then build yolo again; a program that outlives its build folder needs %s "
                "(in target/*/build/yolo-torch-*/out) beside it\n",
                dlerror(), LIBRARY);
        _exit(1);
    }
    __atomic_store_n(&yolo_torch_slots[index], function, __ATOMIC_RELEASE);
    return function;
}
