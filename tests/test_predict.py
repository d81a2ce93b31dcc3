from pathlib import Path

from conftest import Project


def test_broken_files_are_skipped_with_a_message_and_an_exit_code(project: Project, tmp_path: Path):
    (tmp_path / "broken.jpg").write_text("not an image")
    whole = next((project.folder / "data" / "test" / "NORMAL").glob("*.jpg"))
    (tmp_path / "a whole one.jpg").write_bytes(whole.read_bytes())
    output = project.command("predict", str(tmp_path), code=1)
    assert f"skipped {tmp_path / 'broken.jpg'}: not an image file" in output
    assert "a whole one.jpg" in output
    assert "1 of 2 files skipped" in output


def test_predict_names_its_model_and_threshold(project: Project):
    picture = next((project.folder / "data").rglob("*.jpg"))
    output = project.command("predict", str(picture), "--threshold", "0.3")
    version = project.read("build/promote/decision.json")["version"]
    model = f"models:/synthetic-xray-classifier/{version}"
    assert f"{model}: COVID19 when its probability is at least 0.3\n" in output


def test_a_missing_file_and_a_missing_model_are_refused(project: Project):
    assert "no such file" in project.command("predict", "nowhere.jpg", code=1)
    picture = next((project.folder / "data").rglob("*.jpg"))
    output = project.command("predict", str(picture), "--model", "models:/nothing@champion", code=1)
    assert "has no registered model nothing with this alias" in output
    assert "Run `dvc repro` to promote a champion" in output
    assert "Traceback" not in output
    # a model that the gate refused has versions, and no champion
    alias = "models:/synthetic-xray-classifier@other"
    output = project.command("predict", str(picture), "--model", alias, code=1)
    assert "name a version: models:/synthetic-xray-classifier/1" in output
