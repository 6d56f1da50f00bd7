// Finds NVIDIA's run-time compiler and driver, compiles, loads, launches. The prototypes are those of NVRTC's and the driver's
// documented C interfaces, which keep their binary form.

#include "nvrtc.h"

#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dirent.h>
#include <dlfcn.h>

#include <mutex>
#include <stdexcept>

namespace yolo::nvrtc {

namespace {

template <typename F> F *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        throw std::runtime_error(std::string("the library of CUDA has no ") + name);
    }
    return reinterpret_cast<F *>(found);
}

std::string folder_of(const std::string &path) { return path.substr(0, path.find_last_of('/')); }

// libc10_cuda, which libtorch has loaded if it has CUDA.
void *libtorch_cuda() { return dlopen("libc10_cuda.so", RTLD_NOLOAD | RTLD_LAZY | RTLD_LOCAL); }

// Where PyTorch's wheels keep NVIDIA's libraries: beside the folder of libtorch's own.
std::vector<std::string> folders() {
    std::vector<std::string> found;
    auto add = [&found](const std::string &lib) {
        const std::string packages = folder_of(folder_of(lib));
        for (const auto &folder : {lib, packages + "/nvidia/cu13/lib", packages + "/nvidia/cu14/lib", packages + "/nvidia/cuda_nvrtc/lib"}) {
            found.push_back(folder);
        }
    };
    Dl_info info{};
    if (dladdr(reinterpret_cast<void *>(&c10::impl::device_guard_impl_registry), &info) && info.dli_fname) {
        add(folder_of(info.dli_fname));
    }
    found.emplace_back("/usr/local/cuda/lib64");
    return found;
}

void *open_compiler() {
    const std::vector<std::string> names = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.14", "libnvrtc.so"};
    // The one of this process first: its version fits.
    for (int flags : {RTLD_NOLOAD | RTLD_LAZY, RTLD_LAZY | RTLD_LOCAL}) {
        for (const auto &name : names) {
            if (void *library = dlopen(name.c_str(), flags)) {
                return library;
            }
        }
    }
    for (const auto &folder : folders()) {
        for (const auto &name : names) {
            if (void *library = dlopen((folder + "/" + name).c_str(), RTLD_LAZY | RTLD_LOCAL)) {
                return library;
            }
        }
    }
    throw std::runtime_error("NVIDIA's run-time compiler (libnvrtc.so) is not found");
}

// The compiler opens its second library by name alone, which finds it only where the system looks: so it is opened here, from the
// folder of the first.
void *with_builtins(void *library) {
    Dl_info info{};
    if (!dladdr(dlsym(library, "nvrtcVersion"), &info) || !info.dli_fname) {
        return library;
    }
    const std::string folder = folder_of(info.dli_fname);
    if (DIR *files = opendir(folder.c_str())) {
        while (const dirent *file = readdir(files)) {
            if (std::string(file->d_name).rfind("libnvrtc-builtins.so", 0) == 0) {
                dlopen((folder + "/" + file->d_name).c_str(), RTLD_LAZY | RTLD_GLOBAL);
            }
        }
        closedir(files);
    }
    return library;
}

struct Compiler {
    void *library = with_builtins(open_compiler());
    using Program = void *;
    int (*create)(Program *, const char *, const char *, int, const char *const *, const char *const *) =
        symbol<int(Program *, const char *, const char *, int, const char *const *, const char *const *)>(library, "nvrtcCreateProgram");
    int (*build)(Program, int, const char *const *) = symbol<int(Program, int, const char *const *)>(library, "nvrtcCompileProgram");
    int (*log_size)(Program, size_t *) = symbol<int(Program, size_t *)>(library, "nvrtcGetProgramLogSize");
    int (*log)(Program, char *) = symbol<int(Program, char *)>(library, "nvrtcGetProgramLog");
    int (*code_size)(Program, size_t *) = symbol<int(Program, size_t *)>(library, "nvrtcGetCUBINSize");
    int (*code)(Program, char *) = symbol<int(Program, char *)>(library, "nvrtcGetCUBIN");
    int (*ptx_size)(Program, size_t *) = symbol<int(Program, size_t *)>(library, "nvrtcGetPTXSize");
    int (*ptx)(Program, char *) = symbol<int(Program, char *)>(library, "nvrtcGetPTX");
    int (*destroy)(Program *) = symbol<int(Program *)>(library, "nvrtcDestroyProgram");
    int (*count)(int *) = symbol<int(int *)>(library, "nvrtcGetNumSupportedArchs");
    int (*list)(int *) = symbol<int(int *)>(library, "nvrtcGetSupportedArchs");
    const char *(*text)(int) = symbol<const char *(int)>(library, "nvrtcGetErrorString");

    void check(int result, const std::string &doing) const {
        if (result != 0) {
            throw std::runtime_error("NVRTC, " + doing + ": " + text(result));
        }
    }
};

const Compiler &compiler() {
    static const Compiler found;
    return found;
}

// The newest architecture that the compiler knows and the card can run; true where it is the card's own.
std::pair<int, bool> architecture(const Compiler &nvrtc, int capability) {
    int count = 0;
    nvrtc.check(nvrtc.count(&count), "architectures");
    std::vector<int> known(static_cast<size_t>(count));
    nvrtc.check(nvrtc.list(known.data()), "architectures");
    int best = 0;
    for (int one : known) {
        if (one <= capability && one > best) {
            best = one;
        }
    }
    if (best == 0) {
        throw std::runtime_error("NVRTC knows no architecture as old as that of the card: " + std::to_string(capability));
    }
    return {best, best == capability};
}

struct Driver {
    void *library = open();
    int (*init)(unsigned) = symbol<int(unsigned)>(library, "cuInit");
    int (*attribute)(int *, int, int) = symbol<int(int *, int, int)>(library, "cuDeviceGetAttribute");
    int (*retain)(void **, int) = symbol<int(void **, int)>(library, "cuDevicePrimaryCtxRetain");
    int (*current)(void **) = symbol<int(void **)>(library, "cuCtxGetCurrent");
    int (*make_current)(void *) = symbol<int(void *)>(library, "cuCtxSetCurrent");
    int (*load)(void **, const void *) = symbol<int(void **, const void *)>(library, "cuModuleLoadData");
    int (*function)(void **, void *, const char *) = symbol<int(void **, void *, const char *)>(library, "cuModuleGetFunction");
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **) =
        symbol<int(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **)>(
            library, "cuLaunchKernel");
    int (*name)(int, const char **) = symbol<int(int, const char **)>(library, "cuGetErrorName");

    static void *open() {
        void *found = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
        if (!found) {
            throw std::runtime_error("there is no driver for CUDA (libcuda.so.1)");
        }
        return found;
    }

    void check(int result, const std::string &doing) const {
        if (result != 0) {
            const char *known = nullptr;
            name(result, &known);
            throw std::runtime_error("CUDA's driver, " + doing + ": " + (known ? known : std::to_string(result)));
        }
    }

    void enter(void *context) const {
        void *now = nullptr;
        check(current(&now), "cuCtxGetCurrent");
        if (now != context) {
            check(make_current(context), "cuCtxSetCurrent");
        }
    }
};

const Driver &driver() {
    static const Driver found;
    return found;
}

// libtorch's current stream as the driver takes it. Older versions give it through the class of CUDA's streams alone, whose only
// member is the stream.
void *raw_stream(int device) {
    c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    const c10::Stream stream = guard.getStream(c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device)));
    using OfCuda = void *(const c10::Stream *);
    static auto *of_cuda = [] {
        void *library = libtorch_cuda();
        return reinterpret_cast<OfCuda *>(library ? dlsym(library, "_ZNK3c104cuda10CUDAStream6streamEv") : nullptr);
    }();
    return of_cuda ? of_cuda(&stream) : stream.native_handle();
}

} // namespace

Compiled compile(const std::string &source, int capability, std::vector<std::string> options) {
    const Compiler &nvrtc = compiler();
    const auto [known, own] = architecture(nvrtc, capability);
    options.push_back((own ? "--gpu-architecture=sm_" : "--gpu-architecture=compute_") + std::to_string(known));
    options.emplace_back("--std=c++17");
    options.emplace_back("--ptxas-options=-v");
    std::vector<const char *> texts;
    for (const auto &option : options) {
        texts.push_back(option.c_str());
    }
    Compiler::Program program = nullptr;
    nvrtc.check(nvrtc.create(&program, source.c_str(), "bn_act.cu", 0, nullptr, nullptr), "create");
    struct Owner {
        const Compiler &nvrtc;
        Compiler::Program program;
        ~Owner() { nvrtc.destroy(&program); }
    } owner{nvrtc, program};
    const int result = nvrtc.build(program, static_cast<int>(texts.size()), texts.data());
    Compiled compiled;
    size_t size = 0;
    nvrtc.check(nvrtc.log_size(program, &size), "log");
    compiled.log.resize(size);
    nvrtc.check(nvrtc.log(program, compiled.log.data()), "log");
    nvrtc.check(result, "compile: " + compiled.log);
    nvrtc.check(own ? nvrtc.code_size(program, &size) : nvrtc.ptx_size(program, &size), "code");
    compiled.image.resize(size);
    nvrtc.check(own ? nvrtc.code(program, compiled.image.data()) : nvrtc.ptx(program, compiled.image.data()), "code");
    return compiled;
}

Card card(int device) {
    const Driver &cuda = driver();
    constexpr int PROCESSORS = 16;
    constexpr int MAJOR = 75;
    constexpr int MINOR = 76;
    int processors = 0;
    int major = 0;
    int minor = 0;
    cuda.check(cuda.init(0), "cuInit");
    cuda.check(cuda.attribute(&processors, PROCESSORS, device), "multiprocessors");
    cuda.check(cuda.attribute(&major, MAJOR, device), "compute capability");
    cuda.check(cuda.attribute(&minor, MINOR, device), "compute capability");
    return {major * 10 + minor, processors};
}

// Never unloaded: tensors of the last step may still be computed when the process ends.
Module::Module(int device, const std::string &image) : device_(device) {
    const Driver &cuda = driver();
    cuda.check(cuda.retain(&context_, device), "cuDevicePrimaryCtxRetain");
    cuda.enter(context_);
    cuda.check(cuda.load(&module_, image.data()), "cuModuleLoadData");
}

void Module::launch(const char *kernel, unsigned grid_x, unsigned grid_y, unsigned threads, void **arguments) {
    const Driver &cuda = driver();
    // A thread of autograd may not have used CUDA yet.
    cuda.enter(context_);
    void *function = nullptr;
    {
        static std::mutex mutex;
        std::lock_guard<std::mutex> lock(mutex);
        void *&known = functions_[kernel];
        if (!known) {
            cuda.check(cuda.function(&known, module_, kernel), kernel);
        }
        function = known;
    }
    cuda.check(cuda.launch(function, grid_x, grid_y, 1, threads, 1, 1, 0, raw_stream(device_), arguments, nullptr), kernel);
}

} // namespace yolo::nvrtc
