// A detector of `yolo export --format onnx` in onnxruntime: ./onnxruntime best.onnx picture.jpg [out.jpg]
// best.onnx.json is read from beside the file; prints `class score x1 y1 x2 y2` in pixels of the picture.
#include <array>

#include <onnxruntime_cxx_api.h>

#include "detect.hpp"

namespace {

class Network {
public:
    // A path, as its characters are wide on Windows.
    Network(const std::string& file, const yolo::Description& d)
        : description(d), session(env, std::filesystem::path(file).c_str(), Ort::SessionOptions())
    {
    }

    std::vector<yolo::Detection> operator()(std::vector<float>& values)
    {
        const std::array<int64_t, 4> shape{1, 3, description.size.height, description.size.width};
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const auto input = Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(), shape.size());
        const char* from = description.input.c_str();
        const char* to = description.outputs[0].c_str();
        const auto outputs = session.Run(Ort::RunOptions(), &from, &input, 1, &to, 1);

        const auto info = outputs[0].GetTensorTypeAndShapeInfo();
        const auto sizes = info.GetShape();
        if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || sizes.size() != 3 || sizes[0] != 1 ||
            sizes[2] != int64_t(5 + description.classes.size()))
            throw yolo::Error("the output is not [1, boxes, 5 + classes] in floats: the file and its JSON don't belong together");
        return yolo::decode_boxes(outputs[0].GetTensorData<float>(), size_t(sizes[1]), description);
    }

private:
    yolo::Description description;
    Ort::Env env{ORT_LOGGING_LEVEL_ERROR, "yolo"};
    Ort::Session session;
};

}  // namespace

int main(int argc, char** argv)
{
    return yolo::run<Network>(argc, argv, "boxes");
}
