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

/* Says which library is to be opened: its path, or null; then `reason` is what is wrong, or null for the usual one. Set by the
   program before its first call into libtorch; a plugin has none. */
typedef const char *decide_function(const char **reason);
static decide_function *decide;

__attribute__((visibility("hidden"))) void yolo_torch_decide_by(decide_function *function) {
    decide = function;
}

/* The library as already loaded (a plugin finds that of the program), as the program decides, beside the executable (an installed
   program), or where it was built. Null with a reason, which lives until the thread's next use of dlopen. */
static void *open_library(const char **reason) {
    *reason = NULL;
    void *library = dlopen(LIBRARY, RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);
    if (library) {
        return library;
    }
    const char *decided = decide ? decide(reason) : NULL;
    if (*reason) {
        return NULL;
    }
    char path[PATH_MAX + sizeof LIBRARY];
    if (!decided) {
        decided = BUILT_AT;
        ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
        if (length > 0) {
            path[length] = 0;
            char *slash = strrchr(path, '/');
            if (slash) {
                strcpy(slash + 1, LIBRARY);
                if (access(path, R_OK) == 0) {
                    decided = path;
                }
            }
        }
    }
    library = dlopen(decided, RTLD_LAZY | RTLD_LOCAL);
    if (!library) {
        static _Thread_local char text[4096];
        snprintf(text, sizeof text,
                 "can't be loaded: %s\n"
                 "  help: `yolo torch use PATH` takes a PyTorch that is there (`yolo torch list`); where yolo is built, `cargo xtask setup` puts "
                 "libtorch in place; a program that outlives its build folder needs %s (in target/*/build/yolo-torch-*/out) beside it",
                 dlerror(), LIBRARY);
        *reason = text;
    }
    return library;
}

/* Loads libtorch if it is not. Returns null, or the reason, which lives until the thread's next call. */
__attribute__((visibility("hidden"))) const char *yolo_torch_load(void) {
    const char *reason;
    open_library(&reason);
    return reason;
}

__attribute__((visibility("hidden"))) void *yolo_torch_bind(uint64_t index) {
    const char *name = NAMES + OFFSETS[index];
    const char *reason;
    void *library = open_library(&reason);
    void *function = library ? dlsym(library, name) : NULL;
    if (!function) {
        /* There is no way back into the caller, who expects a tensor. */
        if (reason) {
            fprintf(stderr, "error: libtorch: %s\n", reason);
        } else {
            fprintf(stderr,
                    "error: libtorch: this PyTorch has no operator for `%s`, which the command needs\n"
                    "  help: `yolo doctor` says which PyTorch is used; `yolo torch use PATH` takes another one\n",
                    name);
        }
        _exit(1);
    }
    __atomic_store_n(&yolo_torch_slots[index], function, __ATOMIC_RELEASE);
    return function;
}
