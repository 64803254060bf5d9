# For CUDA nodes: the wheels of torch bring CUDA, the host brings the driver and the NVIDIA container toolkit.
#
#   docker build -t ssg-vqa .
#   docker run --rm --gpus all --ipc=host -v /path/to/data:/data:ro -v $PWD/work:/work -e WANDB_API_KEY ssg-vqa \
#     ./scripts/launch_distributed_training.sh --config configs/default_config.yaml --output_dir /work/checkpoints \
#     --mimic_cxr_path /data/mimic-cxr-jpg --mimic_qa_path /data/mimic-ext-cxr-qba --set data.index_dir=/work/index
#
# --ipc=host: loader processes send batches through shared memory, of which a container has 64 MB by itself.
# No data, weights or keys are in the image (.dockerignore); keys are given when it runs.
FROM python:3.12-slim-bookworm

# a compiler for what torch.compile and DeepSpeed build at run time
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential git ninja-build \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH SSGVQA_USE_CURRENT_ENV=1 \
    PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 HF_HOME=/work/huggingface
WORKDIR /opt/ssg-vqa

# the packages first: a change of the code does not install them again
COPY requirements.txt ./
COPY scripts/_env.sh scripts/setup.sh scripts/
RUN python -m venv "$VIRTUAL_ENV" && ./scripts/setup.sh

COPY . .
RUN useradd --create-home researcher && mkdir -p /work && chown researcher /work /opt/ssg-vqa "$VIRTUAL_ENV"
USER researcher
CMD ["python", "-m", "utils.hardware_utils"]
